"""Training: set up, loop, step, checkpoints, logs."""
