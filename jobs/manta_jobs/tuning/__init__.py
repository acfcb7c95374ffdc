"""A hyperparameter search with Ray Tune: trials, their workers, samplers and the report."""
