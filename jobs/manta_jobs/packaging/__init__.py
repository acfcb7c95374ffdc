"""From a trained model to an artifact that can be served: calibration, golden predictions, ONNX, diagnosis."""
