"""Timing, options and results of all benchmarks."""
