"""Jobs that run on the cluster: training, tuning, evaluation, and the demo that joins them."""
