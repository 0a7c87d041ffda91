"""Packs photographs into shard sets."""
