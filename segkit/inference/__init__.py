"""A checkpoint or an ONNX file to predictions."""
