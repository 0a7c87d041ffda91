"""Loaders: shard sets to Lab batches."""
