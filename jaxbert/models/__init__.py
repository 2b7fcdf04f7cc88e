"""BERT as NNX modules, and the pure functions made of them."""
