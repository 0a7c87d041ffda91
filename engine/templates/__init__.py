"""Pages that the engine fills in."""
