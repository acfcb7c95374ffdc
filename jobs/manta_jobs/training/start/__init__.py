"""The start of a training on each worker: the settings and paths of the run, its seeds, the model and its loss."""
