"""Weights and configuration in and out: Hugging Face folders, PyTorch files, legacy Flax trees."""
