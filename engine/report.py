"""What an evaluation leaves behind: per-image figures, the best and the worst pictures, and one self-contained page."""

# Shapes: S pixels a side.

import base64
import csv
import io
import shutil
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from .. import __version__
from ..pipelines import Sample, ShardSet
from ..pipelines.files import whole_file
from .score import Scores
from .weights import Recipe

_VERSIONS = ("grey", "pred", "real")


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A photograph of a gallery: its place from 1 on, and uint8 (3, S, S, 3) grey, prediction and truth."""

    rank: int
    sample: Sample
    figures: dict[str, float]
    versions: NDArray[np.uint8]

    def data_uris(self) -> dict[str, str]:
        """The three versions for the page, as JPEG."""
        return {name: _data_uri(pixels) for name, pixels in zip(_VERSIONS, self.versions, strict=True)}


@dataclass(frozen=True, kw_only=True)
class Result:
    """One model on one shard set; `name` is that of its folder."""

    name: str
    checkpoint: Path
    recipe: Recipe
    data: ShardSet
    scores: Scores
    best: list[Picture]
    worst: list[Picture]

    @property
    def is_training_set(self) -> bool:
        """Whether the model was trained on these very photographs."""
        return self.recipe.data == self.data.digest

    @property
    def gain(self) -> float:
        """By how many per cent the ab RMSE is below that of predicting grey everywhere."""
        return 100 * (1 - self.scores.summary()["rmse_ab"] / self.scores.grey_summary()["rmse_ab"])

    def summary(self) -> dict[str, Any]:
        """The result as summary.json states it."""
        return {
            "checkpoint": str(self.checkpoint),
            "data": str(self.data.root),
            "num_samples": len(self.scores.index),
            "is_training_set": self.is_training_set,
            "metrics": self.scores.summary(),
            "baselines": {"grey": self.scores.grey_summary()},
        }


def write_result(result: Result, out: Path) -> None:
    """Writes a result's folder, whole or not at all: per_image.csv, best/ and worst/.

    The pictures there are named <rank>_<key>_{grey,pred,real}.png.
    """
    folder = out / f".{result.name}.tmp"
    try:
        _write_pictures(result, folder)
        _write_per_image(folder / "per_image.csv", result.scores, result.data)
        folder.rename(out / result.name)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _write_pictures(result: Result, folder: Path) -> None:
    for gallery, pictures in (("best", result.best), ("worst", result.worst)):
        (folder / gallery).mkdir(parents=True)
        for picture in pictures:
            for version, pixels in zip(_VERSIONS, picture.versions, strict=True):
                path = folder / gallery / f"{picture.rank:03d}_{picture.sample.key}_{version}.png"
                Image.fromarray(pixels).save(path)


def _write_per_image(path: Path, scores: Scores, data: ShardSet) -> None:
    """Writes one line per photograph: key, original path, class, then every metric of the model and of grey."""
    columns = {**scores.model, **{f"grey_{name}": values for name, values in scores.grey.items()}}
    with open(path, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(["key", "path", "class", *columns])
        values = torch.stack(list(columns.values()), dim=1).tolist()
        for index, row in zip(scores.index.tolist(), values, strict=True):
            sample = data.sample(index)
            writer.writerow([sample.key, sample.path, sample.class_name, *(f"{value:.6g}" for value in row)])


def write_report(results: list[Result], path: Path, *, size: int | None, crop: str) -> None:
    """Writes the page, which needs nothing from elsewhere; `size` and `crop` state how photographs were cut."""
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["histogram"] = _histogram
    template = environment.from_string(files("photochrom.engine.templates").joinpath("report.html").read_text())
    page = template.render(results=results, size=size, crop=crop, version=__version__)
    with whole_file(path) as file:
        file.write_text(page, encoding="utf-8", errors="replace")  # names of files need not be text to the system


def _histogram(result: Result) -> str:
    """A picture of the photographs' ab RMSE, of the model and of grey."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    model, grey = (scores["rmse_ab"].numpy() for scores in (result.scores.model, result.scores.grey))
    edges = np.linspace(0, max(model.max(), grey.max()) * 1.02 + 1e-6, 31).tolist()
    figure = Figure(figsize=(7, 2.6), layout="constrained")
    axes = figure.subplots()
    axes.hist(model, edges, color="#c2410c", label="this model")
    axes.hist(grey, edges, color="0.35", linewidth=1.5, histtype="step", label="grey everywhere")
    axes.set(xlabel="ab RMSE of a photograph (Lab units)", ylabel="photographs")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=120, transparent=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _data_uri(pixels: NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
