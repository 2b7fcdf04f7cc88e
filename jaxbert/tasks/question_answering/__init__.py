"""The answer to a question, where it stands in a context. All but `task` is free of JAX."""
