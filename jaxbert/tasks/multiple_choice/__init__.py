"""The task of choosing the right answer to each question. Only `task` imports JAX."""
