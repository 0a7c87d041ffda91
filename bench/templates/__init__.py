"""Pages that benchmarks fill in."""
