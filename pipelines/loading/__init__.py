"""Reads shard sets as Lab batches."""
