"""Predicting how training scales: machines and what a photograph costs on them, and what is known to compare with."""
