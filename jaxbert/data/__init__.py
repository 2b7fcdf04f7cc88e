"""Read examples from files, the Hub or memory, and pack them into rows of token ids, in NumPy: never imports jax."""
