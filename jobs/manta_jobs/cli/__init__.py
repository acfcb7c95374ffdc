"""The commands of `manta` that train, tune, evaluate, predict and submit, and their output."""
