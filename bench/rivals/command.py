"""photochrom bench rivals --data DIR: measures other data loaders beside this project's"""

from ...engine.configuration.parser import parse_options
from ..common.results import report
from .config import RivalsOptions


def main(argv: list[str], prog: str) -> int:
    options = parse_options(RivalsOptions, argv, prog=prog)
    from . import measurement, tables  # import torch

    report(measurement.measure(options), options.out, table=tables.table, notes=tables.notes)
    return 0
