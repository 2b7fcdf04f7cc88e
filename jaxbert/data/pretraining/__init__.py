"""From raw text to examples for pretraining: documents, sentences, pairs, masks and vocabularies; never imports jax."""
