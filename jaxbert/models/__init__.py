"""BERT as NNX modules, the pure functions made of them, and the public classes."""
