"""Masked words and next sentences of raw text: documents, pairs, masks, vocabularies. All but `task` is free of JAX."""
