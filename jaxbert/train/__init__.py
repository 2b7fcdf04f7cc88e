"""The training loop with its state, step, optimizer and sharding, and inference with a trained model."""
