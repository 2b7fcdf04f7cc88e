"""State, step, loop, optimizer, sharding and checkpoints."""
