"""Model files and checkpoints, and their conversion to other formats."""
