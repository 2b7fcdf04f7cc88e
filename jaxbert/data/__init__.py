"""Examples from wherever they are to packed rows of token ids, in NumPy: never imports jax."""
