"""From a trained model to answers: artifact, predictor, inference formats, calibration, golden predictions."""
