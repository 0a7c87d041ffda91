"""Measures the stages of packing a photograph, and a whole pack: python -m photochrom.bench.dev.packing PHOTOS

The stages run in one process over the same photographs. The pack of the whole folder is compared with what its workers
would process if they did nothing else.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from ...pipelines import PackConfig, pack
from ...pipelines.imaging.decode import Rejected, decode, read_file, reduced_size
from ...pipelines.imaging.encode import EncodingSettings, encode_jpeg, resize
from ...pipelines.imaging.statistics import count_ab, sample_ab
from ...pipelines.packing.process_image import encode_image
from ...pipelines.system import available_cpus
from ..common.results import Results, make_results, run_benchmark, shares_table
from ..common.timing import collect, summarize

_ALL_STAGES = "all stages"
_STATISTICS = ("Lab of every 4th pixel", "counting colors")


@dataclass(frozen=True, kw_only=True)
class PackingOptions:
    """Measures each stage of packing a photograph, and a whole pack.

    Args:
        photos: Folder of photographs.
        samples: Photographs on which the stages are measured.
        short_side: As that of pack.
        seconds: Measuring time after a warm-up round; at least three rounds are measured.
        out: JSON file for the results.
    """

    photos: Path
    samples: int = 200
    short_side: int = 288
    seconds: float = 20.0
    out: Path | None = None


def main(argv: list[str]) -> int:
    return run_benchmark(
        argv,
        PackingOptions,
        measure,
        prog="python -m photochrom.bench.dev.packing",
        table=shares_table("what", "ms per photograph", "of all stages"),
        positional=("photos",),
    )


def measure(options: PackingOptions) -> Results:
    """Returns the milliseconds per photograph of each stage, and the photographs per second of a pack."""
    torch.set_num_threads(1)  # as in a worker
    photographs = _photographs(options)
    times = collect(_rounds(photographs, options.short_side), options.seconds)
    rows = summarize(times, label="what", whole=lambda medians: medians[_ALL_STAGES])
    throughput, num_files = _pack(options)
    whole = next(row for row in rows if row["what"] == _ALL_STAGES)
    ceiling = available_cpus() * 1e3 / whole["median(ms)"]
    statistics = sum(row["share(%)"] for row in rows if row["what"] in _STATISTICS)
    counting = next(row["share(%)"] for row in rows if row["what"] == _STATISTICS[1])
    verdict = (
        f"{throughput:.0f} photographs/s while packing {num_files} files on {available_cpus()} cores, "
        f"{100 * throughput / ceiling:.0f} % of the {ceiling:.0f} that the stages alone allow; Lab and color counts "
        f"take {statistics:.1f} % of the stages, color counts alone {counting:.1f} %"
    )
    return make_results(options, torch.device("cpu"), rows, verdict)


def _photographs(options: PackingOptions) -> list[bytes]:
    """Returns the first images of the folder that are not rejected."""
    photographs: list[bytes] = []
    for path in sorted(path for path in options.photos.rglob("*") if path.is_file()):
        data = read_file(path)
        try:
            encode_image(data, EncodingSettings(short_side=options.short_side))
        except Rejected:
            continue
        photographs.append(data)
        if len(photographs) == options.samples:
            break
    if not photographs:
        raise ValueError(f"{options.photos} holds no photographs")
    return photographs


def _rounds(photographs: list[bytes], short_side: int) -> Iterator[dict[str, float]]:
    """Yields endless rounds: the seconds per photograph of each stage, and of all stages."""
    settings = EncodingSettings(short_side=short_side)
    decoded = [decode(data, short_side) for data in photographs]
    sized = [(pixels, reduced_size(size, short_side)) for pixels, size, _ in decoded]
    small = [resize(pixels, size) for pixels, size in sized]
    ab = [sample_ab(pixels) for pixels in small]
    stages: dict[str, Callable[[int], object]] = {
        "strict decode": lambda i: decode(photographs[i], short_side),
        "resize": lambda i: resize(*sized[i]),
        "Lab of every 4th pixel": lambda i: sample_ab(small[i]),
        "counting colors": lambda i: count_ab(ab[i]),
        "encode": lambda i: encode_jpeg(small[i], 95, "444"),
        _ALL_STAGES: lambda i: encode_image(photographs[i], settings),
    }
    while True:
        seconds = {}
        for name, stage in stages.items():
            started = time.perf_counter()
            for i in range(len(photographs)):
                stage(i)
            seconds[name] = (time.perf_counter() - started) / len(photographs)
        yield seconds


def _pack(options: PackingOptions) -> tuple[float, int]:
    """Returns the files per second after the first tenth of a pack, including its final check, and their number."""
    marks: list[tuple[int, float]] = []

    def progress(done: int, total: int | None, unit: str) -> None:
        marks.append((done, time.perf_counter()))

    with tempfile.TemporaryDirectory(prefix="photochrom-", dir=options.photos.parent) as folder:
        settings = PackConfig(source=options.photos, out=Path(folder) / "out", short_side=options.short_side)
        pack(settings, progress=progress)
    ended = time.perf_counter()
    first, started = marks[len(marks) // 10]
    done = marks[-1][0]
    return (done - first) / (ended - started), done


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
