"""photochrom bench rivals --data DIR: measures other data loaders beside this project's

Each rival is a module here, listed in entries.py, and runs in a process of its own (runner.py) that imports only what
the rival needs.
"""
