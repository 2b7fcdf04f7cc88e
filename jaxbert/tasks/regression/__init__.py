"""The task of predicting a score for each text or pair of texts."""
