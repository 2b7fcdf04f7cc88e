"""A run on disk: its folder, checkpoints, lock, identity and export."""
