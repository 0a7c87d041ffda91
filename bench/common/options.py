"""The command line of verbs that measure a run as it is configured: their own options, and the run's settings."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from ...engine.commands.train import parse
from ...engine.configuration.config import RunConfig, to_plain_dict
from ...engine.configuration.parser import parse_options
from ...pipelines.output_dir import check_output_file

_UNUSED = "unused"


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What every such verb is told besides the run's settings; raises ValueError for what is out of range."""

    seconds: float
    out: Path | None

    def __post_init__(self) -> None:
        if not self.seconds > 0:
            raise ValueError(f"--seconds {self.seconds} is not positive")
        if self.out:
            check_output_file(self.out, ".json")


O = TypeVar("O", bound=RunOptions)  # noqa: E741


def parse_run(options: type[O], argv: list[str], prog: str, *, data: str = _UNUSED) -> tuple[O, RunConfig]:
    """A verb's own `options`, and the run that all else describes, on the set `data` where no option names one."""
    names = {f"--{field.name.replace('_', '-')}" for field in fields(options)} | {"--help", "-h"}
    own: list[str] = []
    rest: list[str] = []
    current = rest
    for word in argv:
        if word.startswith("-"):
            current = own if word.partition("=")[0] in names else rest
        current.append(word)
    found = parse_options(options, own, prog=prog)
    return found, parse([*rest, "--data.train", getattr(found, "data", data), "--out", _UNUSED], prog=prog)


def told(config: RunConfig, **own: Any) -> dict[str, Any]:
    """What a verb was told: its `own` settings, and those of the run which mean something to it."""
    found = to_plain_dict(config)
    del found["out"], found["resume"]
    if config.data.train == _UNUSED:
        del found["data"]["train"], found["data"]["val"]
    return found | own
