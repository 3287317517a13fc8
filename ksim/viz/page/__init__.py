"""A policy as a page: MuJoCo, the ONNX network and the robot in one HTML file that a double click opens."""
