"""The task of predicting masked words and next sentences of raw text. Only `task` imports JAX."""
