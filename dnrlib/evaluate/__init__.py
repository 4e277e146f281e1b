"""What a finished network is measured by beyond its test accuracy."""
