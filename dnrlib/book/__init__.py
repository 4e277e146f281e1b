"""Pages and the book: what notebooks share, and what turns them into a book. Needs `dnrlib[book]`."""
