"""Pages and the book: what notebooks share, and what makes pages of them. Needs `dnrlib[book]`."""
