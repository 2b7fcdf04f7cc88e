"""BERT as NNX modules, and pure functions made from them."""
