"""What runs on the cluster: training, tuning, evaluation and the demo that joins them."""
