"""jaxbert in Python: fine-tune, pretrain, load; and, in `flax`, the classes that transformers removed."""
