"""The right one of some choices for each question. All but `task` is free of JAX."""
