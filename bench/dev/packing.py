"""Where packing's time goes: python -m photochrom.bench.dev.packing PHOTOS

The gate's stages are measured one after the other over the same photographs, in one process; then a pack of the whole
folder is held against as many gates as there are cores, which do nothing else.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...pipelines import PackConfig, pack
from ...pipelines.imaging.decode import Rejected, decode, read_file, reduced_size
from ...pipelines.imaging.encode import EncodingSettings, encode_jpeg, resize
from ...pipelines.imaging.statistics import count_ab, sample_ab
from ...pipelines.packing.process_image import encode_image
from ...pipelines.system import available_cpus
from ..common.results import figures, run, shares
from ..common.timing import collect, spread

_GATE = "the whole gate"
_STATISTICS = ("Lab of every 4th pixel", "counting colours")


@dataclass(frozen=True, kw_only=True)
class PackingConfig:
    """Measures each stage that a photograph passes, and a whole pack.

    Args:
        photos: Folder of photographs.
        samples: Photographs of it on which the stages are measured.
        short_side: As that of pack.
        seconds: How long to measure the stages, after one round to warm up; at least 3 rounds.
        out: File for the figures as JSON.
    """

    photos: Path
    samples: int = 200
    short_side: int = 288
    seconds: float = 20.0
    out: Path | None = None


def main(argv: list[str]) -> int:
    return run(
        argv,
        PackingConfig,
        measure,
        prog="python -m photochrom.bench.dev.packing",
        show=shares("what", "ms per photograph", "of the gate"),
        positional=("photos",),
    )


def measure(config: PackingConfig) -> dict[str, Any]:
    """Milliseconds per photograph of each stage, and photographs per second of a pack."""
    torch.set_num_threads(1)  # as in a worker
    photographs = _photographs(config)
    times = collect(_rounds(photographs, config.short_side), config.seconds)
    rows = spread(times, label="what", whole=lambda medians: medians[_GATE])
    rate, num_files = _pack(config)
    gate = next(row for row in rows if row["what"] == _GATE)
    ceiling = available_cpus() * 1e3 / gate["median(ms)"]
    statistics = sum(row["share(%)"] for row in rows if row["what"] in _STATISTICS)
    counting = next(row["share(%)"] for row in rows if row["what"] == _STATISTICS[1])
    verdict = (
        f"{rate:.0f} photographs/s while packing {num_files} files on {available_cpus()} cores, "
        f"{100 * rate / ceiling:.0f} % of the {ceiling:.0f} that the gate alone would let through; colours take {statistics:.1f} % of the gate, "
        f"of which the statistics alone {counting:.1f} %"
    )
    return figures(config, torch.device("cpu"), rows, verdict)


def _photographs(config: PackingConfig) -> list[bytes]:
    """The first JPEGs and others of the folder that pass the gate."""
    found: list[bytes] = []
    for path in sorted(path for path in config.photos.rglob("*") if path.is_file()):
        data = read_file(path)
        try:
            encode_image(data, EncodingSettings(short_side=config.short_side))
        except Rejected:
            continue
        found.append(data)
        if len(found) == config.samples:
            break
    if not found:
        raise ValueError(f"{config.photos} holds no photographs")
    return found


def _rounds(photographs: list[bytes], short_side: int) -> Iterator[dict[str, float]]:
    """Endless rounds: the seconds per photograph of each stage, and of the whole."""
    settings = EncodingSettings(short_side=short_side)
    decoded = [decode(data, short_side) for data in photographs]
    sized = [(pixels, reduced_size(size, short_side)) for pixels, size, _ in decoded]
    small = [resize(pixels, size) for pixels, size in sized]
    colours = [sample_ab(pixels) for pixels in small]
    stages: dict[str, Callable[[int], object]] = {
        "strict decode": lambda i: decode(photographs[i], short_side),
        "resize": lambda i: resize(*sized[i]),
        "Lab of every 4th pixel": lambda i: sample_ab(small[i]),
        "counting colours": lambda i: count_ab(colours[i]),
        "encode": lambda i: encode_jpeg(small[i], 95, "444"),
        _GATE: lambda i: encode_image(photographs[i], settings),
    }
    while True:
        seconds = {}
        for name, stage in stages.items():
            started = time.perf_counter()
            for i in range(len(photographs)):
                stage(i)
            seconds[name] = (time.perf_counter() - started) / len(photographs)
        yield seconds


def _pack(config: PackingConfig) -> tuple[float, int]:
    """Files per second from the first tenth of a pack to its end, its last check included, and their number."""
    marks: list[tuple[int, float]] = []

    def progress(done: int, total: int | None, unit: str) -> None:
        marks.append((done, time.perf_counter()))

    with tempfile.TemporaryDirectory(prefix="photochrom-", dir=config.photos.parent) as folder:
        settings = PackConfig(source=config.photos, out=Path(folder) / "out", short_side=config.short_side)
        pack(settings, progress=progress)
    ended = time.perf_counter()
    first, started = marks[len(marks) // 10]
    done = marks[-1][0]
    return (done - first) / (ended - started), done


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
