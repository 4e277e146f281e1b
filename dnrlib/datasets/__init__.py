"""Images: bundled, official and one's own, as resident uint8 tensors, and batches of them."""
