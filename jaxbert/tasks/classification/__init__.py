"""The task of choosing one of C labels for each text or pair of texts."""
