"""Colours for pictures and videos of any kind, at full resolution."""
