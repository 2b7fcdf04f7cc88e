"""Times the training step as the trainer builds it, on synthetic or real examples."""
