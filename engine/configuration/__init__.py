"""Settings of a run: dataclasses, files, command lines."""
