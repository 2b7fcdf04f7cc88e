"""One of C labels for each text or pair of texts."""
