"""What each worker begins a training with: the settings and paths of the run, its seeds, the model and its loss."""
