"""`manta data`: the check of labels."""
