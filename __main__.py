"""`python -m photochrom` and `accelerate launch -m photochrom`: the same as the `photochrom` command."""

import sys

from .engine.cli import main

if __name__ == "__main__":
    sys.exit(main())
