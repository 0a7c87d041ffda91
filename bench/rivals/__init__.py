"""photochrom bench rivals --data DIR: what people use today, beside ours

Each rival is a module here, named in entries.py, and runs in a process of its own (runner.py), in which nothing is
imported but what it needs.
"""


def main(argv: list[str], prog: str) -> int:
    """The verb; returns the exit code."""
    from .command import main  # heavier than what a rival's process should begin with

    return main(argv, prog)
