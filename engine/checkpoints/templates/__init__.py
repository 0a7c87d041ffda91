"""Templates of what is written beside model files."""
