"""photochrom models"""

from collections.abc import Iterator
from pathlib import Path

from rich.table import Table

from ..configuration.parser import Parser
from ..console import print_table, say

_WIDTH = 160  # of the table where stdout is not a terminal
_METRICS = ("rmse_ab", "auc", "auc_rebalanced", "colorfulness")


def main(argv: list[str]) -> int:
    parser = Parser(
        prog="photochrom models",
        description="Lists the models that come with Photochrom, with their scores on the first set of their cards.",
    )
    parser.parse(argv)
    from ..checkpoints.pretrained import DEFAULT, pretrained_models
    from ..evaluation.summary import METRICS

    models = pretrained_models()
    if not models:
        say("no model comes with this installation")
        return 0
    headings = ("model", "loss", "head", "width", "trained at", "images drawn", "MB")
    table = Table(*headings, *(METRICS[name].heading for name in _METRICS), box=None, header_style="bold")
    for name, file in models.items():
        table.add_row(f"{name} (default)" if name == DEFAULT else name, *_cells(file))
    print_table(table, width=_WIDTH)
    say(f"The cards beside the files have data, licences and limits: {next(iter(models.values())).parent}")
    return 0


def _cells(file: Path) -> Iterator[str]:
    """Yields the cells of a model file; those that its header says nothing on are empty."""
    from ..checkpoints.model_file import read_metadata  # imports torch: not needed for --help
    from ..configuration.registry import spec_name
    from ..evaluation.summary import METRICS

    metadata = read_metadata(file)
    arguments = metadata.model.init_args
    yield from (spec_name(metadata.loss), str(arguments.get("head", "")), str(arguments.get("width", "")))
    yield from (str(metadata.size), f"{metadata.training['images']:,}" if "images" in metadata.training else "")
    yield f"{file.stat().st_size / 1e6:.1f}"
    scores = metadata.scores[0]["metrics"] if metadata.scores else {}
    yield from (METRICS[name].format(scores.get(name)) for name in _METRICS)
