"""A search over settings with Ray Tune: trials, their workers, samplers and the report."""
