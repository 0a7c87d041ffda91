"""photochrom bench report [FOLDER]: all results that were kept, by machine, on one page

Each folder in FOLDER is a machine. What a file holds is told by findings.py, how its rows are shown by tables.py.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ... import __version__
from ...engine.configuration.parser import parse_options
from ...engine.console import console, plural
from ...engine.html_page import render
from ...pipelines.files import atomic_write
from ...pipelines.output_dir import check_output_file
from .read_results import READERS, Finding, Picture, read, read_picture

_KEPT = Path(__file__).parent / "results"
_UNKNOWN = "is of a kind that this page does not know"
_LONELY = "was drawn from figures that are damaged"


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Makes one HTML page, which needs nothing from elsewhere, of all results that lie in a folder, by machine. What
    cannot be shown is listed with the reason; where that is damage, it is also said here, and the exit code is 1.

    Args:
        folder: Where the results are, in a folder for each machine; by default those that come with the source.
        out: The page; one that is there already is replaced.
    """

    folder: list[Path] = field(default_factory=list)  # one at most: a list, since that alone can be left away
    out: Path = Path("bench-report.html")

    def __post_init__(self) -> None:
        if len(self.folder) > 1:
            raise ValueError(f"{self.folder[1]} is one argument too many: there is one page for one folder of results")
        check_output_file(self.out, ".html")


@dataclass(frozen=True, kw_only=True)
class Unshown:
    """A file that is not on the page, and why."""

    path: Path
    reason: str
    is_damaged: bool


@dataclass(frozen=True, kw_only=True)
class ReportedMachine:
    """The results of a folder, benchmarks first, with the pictures of those that have one."""

    name: str
    findings: Sequence[Finding]
    pictures: dict[str, Picture]
    unshown: Sequence[Unshown]

    @property
    def described(self) -> dict[str, list[str]]:
        """What the files call the machine, and which do."""
        found: dict[str, list[str]] = {}
        for finding in self.findings:
            if finding.machine:
                found.setdefault(finding.machine, []).append(finding.name)
        return found


def main(argv: list[str], prog: str) -> int:
    config = parse_options(ReportConfig, argv, prog=prog, positional=("folder",))
    folder = config.folder[0] if config.folder else _KEPT
    machines = gather(folder, config.out)
    unshown = [each for machine in machines for each in machine.unshown]
    about = {"folder": folder, "machines": machines, "unshown": unshown, "version": __version__}
    page = render("photochrom.bench", "report.html", **about)
    with atomic_write(config.out) as file:
        file.write_text(page, encoding="utf-8", errors="replace")  # names of files need not be text to the system
    print(f"{config.out}: {_said(machines, unshown)}")
    damaged = [each for each in unshown if each.is_damaged]
    for each in damaged:
        console.print(f"{prog}: {each.path} {each.reason}; measure again, or remove it")
    return 1 if damaged else 0


def gather(folder: Path, out: Path) -> list[ReportedMachine]:
    """What lies in the folder itself, then in each within it, less the page. Raises ValueError where nothing does."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder: name one that holds results")
    within = sorted(path for path in folder.iterdir() if path.is_dir())
    files = {folder: _files(folder.iterdir(), out), **{each: _files(each.rglob("*"), out) for each in within}}
    machines = [_machine(each, paths) for each, paths in files.items() if paths]
    if not machines:
        raise ValueError(f"{folder} holds no results: the option --out of a benchmark writes them")
    return machines


def _files(paths: Iterable[Path], out: Path) -> list[Path]:
    return sorted(path for path in paths if not path.is_dir() and path.resolve() != out.resolve())


def _machine(folder: Path, files: Sequence[Path]) -> ReportedMachine:
    findings: list[Finding] = []
    pictures: dict[str, Picture] = {}
    unshown: list[Unshown] = []
    for path in files:
        name = path.relative_to(folder)
        try:
            if path.suffix == ".png" and path.with_suffix(".json") in files:
                pictures[str(name.with_suffix(""))] = read_picture(path)
            elif path.suffix in READERS:
                findings.append(read(path, str(name)))
            else:
                unshown.append(Unshown(path=path, reason=_UNKNOWN, is_damaged=False))
        except ValueError as error:
            unshown.append(Unshown(path=path, reason=str(error), is_damaged=True))
    lonely = sorted(pictures.keys() - {finding.name for finding in findings})
    unshown += [Unshown(path=folder / f"{name}.png", reason=_LONELY, is_damaged=False) for name in lonely]
    findings.sort(key=lambda finding: not finding.is_benchmark)
    return ReportedMachine(
        name=folder.name or folder.resolve().name, findings=findings, pictures=pictures, unshown=unshown
    )


def _said(machines: Sequence[ReportedMachine], unshown: Sequence[Unshown]) -> str:
    findings = [finding for machine in machines for finding in machine.findings]
    benchmarks = sum(finding.is_benchmark for finding in findings)
    on = f"{plural(len(machines), 'machine')} ({', '.join(machine.name for machine in machines)})"
    said = [f"{plural(benchmarks, 'benchmark')} and {plural(len(findings) - benchmarks, 'other file')} of {on}"]
    return "; ".join([*said, *([f"{plural(len(unshown), 'file')} not shown"] if unshown else [])])
