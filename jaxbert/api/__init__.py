"""jaxbert in Python: fine-tune, pretrain, load; `flax` holds the classes that transformers removed."""
