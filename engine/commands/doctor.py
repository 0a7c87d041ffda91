"""photochrom doctor"""

from rich.table import Table
from rich.text import Text

from ..configuration.parser import Parser
from ..console import print_table

_COLORS = {"ok": "green", "note": "yellow", "missing": "red", "broken": "red"}


def main(argv: list[str]) -> int:
    parser = Parser(prog="photochrom doctor", description="Checks what this machine can do and what is missing.")
    parser.parse(argv)
    from ..doctor import run_checks  # imports torch: not needed for --help

    checks = list(run_checks())
    table = Table("", "", "found", "to do", box=None, header_style="bold")
    for check in checks:
        verdict = Text(check.verdict, _COLORS[check.verdict])
        table.add_row(check.what, verdict, Text(check.found), Text(check.advice))
    print_table(table)
    return 1 if any(check.verdict in ("missing", "broken") for check in checks) else 0
