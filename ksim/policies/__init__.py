"""A policy as a file: loaded, described, exported as ONNX."""
