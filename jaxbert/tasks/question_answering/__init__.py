"""The task of finding the answer to a question in a context. Only `task` imports JAX."""
