"""Inference with a trained model: artifact, predictor, inference formats, calibration, golden predictions."""
