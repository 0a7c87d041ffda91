"""Runs: command line, configuration, training, evaluation, checkpoints and reports."""
