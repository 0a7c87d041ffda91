"""Recipes: every published run is one short file."""
