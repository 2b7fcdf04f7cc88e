"""The FlaxBert classes, with the interface of those that transformers removed."""
