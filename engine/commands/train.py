"""photochrom train --config RECIPE --out RUN --data.train SHARDS"""

from ..configuration.config import RunConfig
from ..configuration.parser import description
from ..configuration.run_parser import RunParser
from ..console import console, say

_USAGE = "photochrom train [--config RECIPE] --data.train SHARDS --out FOLDER [--SETTING VALUE ...]"


def main(argv: list[str]) -> int:
    config = parse(argv)
    from ..distributed import (  # imports torch: not needed for --help
        end_processes,
        ending_processes_on_error,
        is_first_process,
    )
    from ..training.run import train
    from ..training.shutdown import LostProcess, RunStopped, ignore_signals, report_to_torchrun

    try:
        with report_to_torchrun(), ending_processes_on_error():
            summary = train(config)
        end_processes()
    except LostProcess:
        ignore_signals()  # the launcher's SIGTERM must not come before this process has printed why it leaves
        raise
    except RunStopped as stopped:
        end_processes()
        ignore_signals()
        if is_first_process():
            console.print(f"photochrom train: {stopped}")
        return 128 + stopped.number
    if is_first_process():
        say(summary["checkpoint"])
    return 0


def parse(argv: list[str]) -> RunConfig:
    """Returns the run that a command line asks for."""
    parser = RunParser(argv, prog="photochrom train", usage=_USAGE, description=description(RunConfig))
    return parser.run_config(parser.parse(argv))
