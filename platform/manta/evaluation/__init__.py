"""Metrics, and the baseline that fine-tuning must beat."""
