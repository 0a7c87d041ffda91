"""Measures: loader, step, stalls, scaling, rivals."""
