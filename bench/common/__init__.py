"""What all benchmarks share: timing, options, results."""
