"""photochrom doctor"""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..configuration.parser import Parser
from ..doctor import examine

_COLOURS = {"ok": "green", "note": "yellow", "missing": "red", "broken": "red"}


def main(argv: list[str]) -> int:
    parser = Parser(prog="photochrom doctor", description="Says what this machine can do and what is missing.")
    parser.parse_args(argv)
    findings = list(examine())
    table = Table("", "", "found", "to do", box=None, header_style="bold")
    for finding in findings:
        colour = _COLOURS[finding.verdict]
        table.add_row(finding.what, Text(finding.verdict, colour), Text(finding.found), Text(finding.advice))
    Console().print(table)
    return 1 if any(finding.verdict in ("missing", "broken") for finding in findings) else 0
