"""The start of a run on several machines: who takes part, and JAX's runtime between them."""
