"""`manta data`: the check of labels, and what to label next."""
