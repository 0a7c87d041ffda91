"""Command lines of benchmarks: their own options and, if they measure a configured run, the run's settings."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ...engine.configuration.config import RunConfig, to_plain_dict
from ...engine.configuration.parser import build, description, parameters
from ...engine.configuration.run_parser import RunParser
from ...pipelines.output_dir import check_output_file
from ...pipelines.ranges import COUNT, SECONDS, check_ranges

_UNUSED = "unused"


@dataclass(frozen=True, kw_only=True)
class BenchmarkOptions:
    """Options of a benchmark; its numbers are positive. Raises ValueError for values out of range."""

    out: Path | None

    def __post_init__(self) -> None:
        ranges = {int: COUNT, float: SECONDS}
        given = {name: ranges[type(value)] for name, value in vars(self).items() if type(value) in ranges}
        check_ranges(self, "", **given)
        if self.out:
            check_output_file(self.out, ".json")


Options = TypeVar("Options", bound=BenchmarkOptions)


def parse_run(options: type[Options], argv: list[str], prog: str) -> tuple[Options, RunConfig]:
    """Returns a benchmark's own `options`, and the run that all other settings describe.

    The run trains on the benchmark's option `data`, if it has one.
    """
    skip = ("out", "resume", "data.train")
    usage = f"{prog} [OPTION ...] [--config RECIPE] [--SETTING VALUE ...]"
    parser = RunParser(argv, options=options, skip=skip, prog=prog, usage=usage, description=description(options))
    values = parser.parse(argv)
    try:
        own = build(options, {name: values.pop(name) for name in parameters(options) if name in values})
    except ValueError as error:
        parser.error(str(error))
    data = {"data.train": own.data} if hasattr(own, "data") else {"data.train": _UNUSED, "data.weights": None}
    return own, parser.run_config({**values, **data, "out": _UNUSED})


def used_settings(config: RunConfig, **own: Any) -> dict[str, Any]:
    """Returns a benchmark's own settings and those of the run that it uses, as plain values."""
    settings = to_plain_dict(config)
    del settings["out"], settings["resume"]
    if config.data.train == _UNUSED:
        del settings["data"]["train"], settings["data"]["val"]
    return settings | own
