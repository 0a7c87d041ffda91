"""Measures what the rest does."""
