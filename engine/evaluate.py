"""Evaluates models on whole shard sets: every model on every set, each result written as soon as it is there."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any, Literal

import numpy as np
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from ..models import Colorizer
from ..pipelines import ShardSet
from ..pipelines.loader import Loader
from .config import Device, LoaderConfig, Precision, save_yaml
from .console import progress_bar
from .launch import make_accelerator
from .loaders import make_loader
from .output import new_folder, write_json
from .preview import triptychs
from .report import Picture, Result, write_report, write_result
from .score import Scores, gallery, predictions, score
from .specs import build_loss, import_plugin
from .weights import Recipe, load_with_recipe, model_file

REPORT = "report.html"


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Scores models over whole shard sets, each photograph exactly once, and shows the best and the worst.

    Args:
        checkpoints: Run folders, checkpoints or model.safetensors files.
        data: Shard sets to score on.
        out: New folder for the report.
        size: Side in pixels at which photographs are scored; by default that of the model's training.
        crop: How a square is cut, squash (the whole photograph) or center.
        batch_size: Photographs at once, over all processes.
        gallery: How many of the best and of the worst are shown.
        precision: Of the network's arithmetic, auto, bf16, fp16 or fp32.
        device: auto, cuda or cpu.
        plugin: Python module to import first, when the model or loss is one of your own.
    """

    checkpoints: list[str]
    data: list[str]
    out: Path
    size: int | None = None
    crop: Literal["squash", "center"] = "squash"
    batch_size: int = 32
    gallery: int = 12
    precision: Precision = "fp32"
    device: Device = "auto"
    plugin: str | None = None

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 16:
            raise ValueError(f"--size {self.size} is below 16, too small for the window of SSIM")
        for name in ("batch_size", "gallery"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} {getattr(self, name)} is not a positive number")


def evaluate(config: EvaluateConfig) -> Iterator[Result]:
    """Yields each result when it is scored and, by the first process, written; no other process yields any.

    All that can be wrong is found before the folder is made. Raises ValueError with one sentence for what a user can
    mend.
    """
    accelerator = make_accelerator(config.device, config.precision)
    import_plugin(config.plugin)
    jobs = _jobs(config, accelerator)
    if not accelerator.is_main_process:
        for job in jobs:
            _run(config, job, accelerator)
    else:
        with new_folder(config.out):
            results: list[Result] = []
            for job in jobs:
                results.append(_run(config, job, accelerator))
                write_result(results[-1], config.out)
                write_report(results, config.out / REPORT, size=config.size, crop=config.crop)
                write_json(config.out / "summary.json", {"results": [result.summary() for result in results]})
                save_yaml(config, config.out / "config.yaml")
                yield results[-1]
    accelerator.end_training()


@dataclass(frozen=True, kw_only=True)
class _Job:
    """One model to be scored on one shard set."""

    name: str
    checkpoint: Path
    model: Colorizer
    recipe: Recipe
    loader: Loader


def _jobs(config: EvaluateConfig, accelerator: Accelerator) -> list[_Job]:
    """Every checkpoint with every shard set, each under a name of its own."""
    jobs: list[_Job] = []
    # The first process looks for the files: a run that is still in training has others a moment later.
    files = [model_file(Path(path)) for path in config.checkpoints] if accelerator.is_main_process else None
    for checkpoint, file in zip(map(Path, config.checkpoints), broadcast_object_list([files])[0], strict=True):
        model, recipe = load_with_recipe(file)
        build_loss(recipe.loss)
        for folder in config.data:
            loader = _loader(config, ShardSet.open(folder), recipe, accelerator, batch_size=config.batch_size)
            name = _unused(f"{_run_name(checkpoint)}-on-{loader.data.root.resolve().name}", {job.name for job in jobs})
            jobs.append(_Job(name=name, checkpoint=checkpoint, model=model, recipe=recipe, loader=loader))
    return jobs


def _run_name(checkpoint: Path) -> str:
    path = checkpoint.resolve()
    return path.parent.name if path.is_file() else path.name


def _unused(name: str, used: set[str]) -> str:
    return next(other for other in chain([name], (f"{name}-{n}" for n in count(2))) if other not in used)


def _loader(
    config: EvaluateConfig, data: ShardSet, recipe: Recipe, accelerator: Accelerator, **settings: Any
) -> Loader:
    size = config.size or recipe.size
    return make_loader(LoaderConfig(), data, accelerator, size=size, train=False, crop=config.crop, **settings)


def _run(config: EvaluateConfig, job: _Job, accelerator: Accelerator) -> Result:
    """Scores one model on one set; the pictures are made by the first process only."""
    model: Colorizer = accelerator.prepare_model(job.model.to(accelerator.device), evaluation_mode=True)
    with progress_bar(job.name, "batches", enabled=accelerator.is_main_process) as progress:
        loss = build_loss(job.recipe.loss).to(accelerator.device)
        scores = score(model, loss, job.loader, progress)
    best, worst = gallery(scores, config.gallery) if accelerator.is_main_process else ([], [])
    return Result(
        name=job.name,
        checkpoint=job.checkpoint,
        recipe=job.recipe,
        data=job.loader.data,
        scores=scores,
        best=_pictures(config, job, model, scores, best, accelerator),
        worst=_pictures(config, job, model, scores, worst, accelerator),
    )


def _pictures(
    config: EvaluateConfig, job: _Job, model: Colorizer, scores: Scores, positions: list[int], accelerator: Accelerator
) -> list[Picture]:
    """The photographs at these positions of the scores, colorized once more: the same pixels that were scored."""
    if not positions:
        return []
    samples = scores.index[positions].tolist()
    loader = _loader(
        config,
        job.loader.data,
        job.recipe,
        accelerator,
        shared=False,
        batch_size=min(config.batch_size, len(samples)),
        samples=samples,
    )
    versions = np.concatenate([triptychs(batch, ab) for batch, ab in predictions(model, loader)], axis=1)
    return [
        Picture(
            rank=rank,
            sample=job.loader.data.sample(sample),
            figures={name: float(values[position]) for name, values in scores.model.items()},
            versions=versions[:, rank - 1],
        )
        for rank, (position, sample) in enumerate(zip(positions, samples, strict=True), start=1)
    ]
