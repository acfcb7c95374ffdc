"""Packaging of a trained model into an artifact that can be served: calibration, golden predictions, formats, diagnosis."""
