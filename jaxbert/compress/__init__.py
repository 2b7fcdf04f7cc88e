"""Make a model smaller: distillation from a teacher, pruning of layers, heads and columns, and of the vocabulary."""
