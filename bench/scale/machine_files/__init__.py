"""Machines as YAML files in which every value has its source."""
