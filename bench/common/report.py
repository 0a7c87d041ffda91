"""photochrom bench report [FOLDER]: prints all results in a folder as Markdown"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich import box

from ...engine.configuration.parser import parse_options
from ...engine.console import SafeConsole
from ...pipelines.structured import read_json
from .results import make_table

_RESULTS = Path(__file__).parents[1] / "results"
_WIDTH = 10_000  # no line is wrapped


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Prints the results in a folder as Markdown tables, one for each JSON file. Results of different machines differ
    in more than what was measured: compare only those of one file.

    Args:
        folder: Folder of results; by default the results that come with the source.
    """

    folder: list[Path] = field(default_factory=list)  # a list, since only lists may be left out

    def __post_init__(self) -> None:
        if len(self.folder) > 1:
            raise ValueError(f"one folder can be given, not {len(self.folder)}")


def main(argv: list[str], prog: str) -> int:
    options = parse_options(ReportOptions, argv, prog=prog, positional=("folder",))
    folder = options.folder[0] if options.folder else _RESULTS
    files = sorted(folder.rglob("*.json"))
    if not files:
        raise ValueError(f"{folder} holds no .json files: 'photochrom bench VERB --out FILE' writes them")
    console = SafeConsole(file=sys.stdout, width=_WIDTH)
    for file in files:
        results = _read(file)
        console.print(f"## {file.relative_to(folder).with_suffix('')}", "", _machine(results), sep="\n")
        console.print(make_table(results["rows"], box.MARKDOWN), "", str(results.get("verdict", "")), "", sep="\n")
    return 0


def _read(file: Path) -> dict[str, Any]:
    """Returns results with rows; other JSON becomes one row. Raises ValueError for a file that is not JSON."""
    try:
        results = read_json(file)
    except ValueError as error:
        raise ValueError(f"{error}: measure again, or remove it") from None
    if isinstance(results, dict) and "rows" in results:
        return results
    return {"rows": results if isinstance(results, list) else [results]}


def _machine(results: dict[str, Any]) -> str:
    names = results.get("machine", {})
    return ", ".join(f"{key} {names[key]}" for key in ("device", "cpu", "cores") if key in names)
