"""The task of choosing any number of C labels for each text or pair of texts."""
