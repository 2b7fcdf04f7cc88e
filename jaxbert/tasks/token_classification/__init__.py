"""The task of tagging each word or token: entities and parts of speech. Only `task` imports JAX."""
