"""A score for each text or pair of texts."""
