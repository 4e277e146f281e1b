"""Which method to use on one's own images: the comparison, its report, the network as a file.
Needs `dnrlib[book]`."""
