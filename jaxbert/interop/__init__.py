"""Weights in and out: safetensors, PyTorch and legacy Flax files, Hugging Face folders."""
