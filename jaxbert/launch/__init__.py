"""The start of a run on several machines: its processes, and JAX's runtime between them."""
