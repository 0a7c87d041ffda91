"""Scores models over whole shard sets."""
