"""Fine-tuning on Ray Train workers: the loop, its engine, data, checkpoints, recovery and tracking."""
