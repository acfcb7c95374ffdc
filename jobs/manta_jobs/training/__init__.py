"""Fine-tuning on Ray Train workers: the training loop, the engine, data, checkpoints, recovery and tracking."""
