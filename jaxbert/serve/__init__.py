"""Trained models in production: ONNX graphs, the engine that runs them, and what serves requests."""
