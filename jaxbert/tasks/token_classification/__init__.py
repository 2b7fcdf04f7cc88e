"""A tag for each word, or for each token: entities and parts of speech. All but `task` is free of JAX."""
