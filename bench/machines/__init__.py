"""Machines as files: what each can do, every figure with its source."""
