"""Evaluates models on whole shard sets, those of one size on one set in one pass, from where a stopped run was."""

import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from ...losses.rebalancing import load_prior
from ...pipelines import ShardSet
from ...pipelines.files import sha256_of
from ...pipelines.loading.base import Loader
from ...pipelines.output_dir import claim_resumable_output, write_json
from ..checkpoints.model_file import ModelMetadata, load_with_metadata, model_file, model_name
from ..configuration.config import Device, LoaderConfig, Precision, save_yaml, to_plain_dict
from ..configuration.registry import build_loss, import_plugin
from ..console import progress_bar
from ..distributed import make_accelerator
from ..doctor import versions
from ..loaders import evaluation_loader
from .gallery import chosen, write_gallery
from .perceptual import PERCEPTUAL, Fid, load_lpips
from .predictors import BASELINES, ModelPredictor, Predictor
from .report import Section, write_report
from .results import BEST, WORST, Protocol, Result, SetScores, result_folder, write_figures
from .row_file import RowFile
from .score import TRUTH, Rows, Scorer
from .summary import METRICS

REPORT = "report.html"
_EVERY = 16  # batches between two times that rows are written
_SIZE = 256  # of baselines, when no model has one
_TIMEOUT = 7200  # seconds: the first process writes while the others wait


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Scores models over whole shard sets, each photograph exactly once, and shows the best and the worst.

    Args:
        checkpoints: Run folders, checkpoints or model.safetensors files.
        data: Shard sets to score on.
        out: New folder for the report.
        baseline: What is scored and shown as if it were a model, grey or mean, the set's mean colour; both are in every
            table anyway.
        size: Side in pixels at which photographs are scored; by default that of each model's training, or 256.
        crop: How a square is cut, squash (the whole photograph) or center.
        prior: Shares of the ab bins for the rebalanced AuC, a shard set or a .npy file; by default each set's own.
        metrics: Further ones, lpips and fid, for which torchmetrics and its weights must be there.
        gallery: How many of the best and of the worst are shown.
        gallery_by: Metric of a photograph that decides which are best, such as loss, rmse_ab or psnr; by default loss,
            and rmse_ab for what has none.
        batch_size: Photographs at once, over all processes.
        precision: Of the network's arithmetic, auto, bf16, fp16 or fp32.
        device: auto, cuda or cpu.
        resume: Go on with what an interrupted run has left in out.
        plugin: Python module to import first, when the model or loss is one of your own.
    """

    checkpoints: list[str] = field(default_factory=list)
    data: list[str]
    out: Path
    baseline: list[Literal["grey", "mean"]] = field(default_factory=list)
    size: int | None = None
    crop: Literal["squash", "center"] = "squash"
    prior: Path | None = None
    metrics: list[str] = field(default_factory=list)
    gallery: int = 50
    gallery_by: str | None = None
    batch_size: int = 32
    precision: Precision = "fp32"
    device: Device = "auto"
    resume: bool = False
    plugin: str | None = None

    def __post_init__(self) -> None:
        if not self.checkpoints and not self.baseline:
            raise ValueError("name a checkpoint, or a baseline that needs none: --baseline grey")
        if self.size is not None and self.size < 16:
            raise ValueError(f"--size {self.size} is below 16, too small for the window of SSIM")
        for name in ("batch_size", "gallery"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} {getattr(self, name)} is not a positive number")
        if unknown := [name for name in self.further if name not in PERCEPTUAL]:
            raise ValueError(
                f"--metrics {unknown[0]} is unknown; known are {', '.join(PERCEPTUAL)}, beside those always taken"
            )
        sorting = [
            name for name, figure in METRICS.items() if figure.best and (name != "lpips" or name in self.further)
        ]
        if self.gallery_by not in (None, *sorting):
            raise ValueError(f"--gallery-by {self.gallery_by} ranks no photographs; known are {', '.join(sorting)}")

    @property
    def further(self) -> list[str]:
        """The names in `metrics`, which can be parted by commas."""
        return [name for names in self.metrics for name in names.split(",") if name]


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """A predictor that is asked for; baselines have no checkpoint."""

    name: str
    predictor: Predictor
    checkpoint: Path | None = None
    metadata: ModelMetadata | None = None


@dataclass(frozen=True, kw_only=True)
class _Job:
    """All entries that see one shard set at one size: one pass over it."""

    name: str
    data: ShardSet
    size: int
    entries: list[_Entry]

    @property
    def predictors(self) -> dict[str, Predictor]:
        """The entries and the baselines."""
        baselines = {name: make(self.data) for name, make in BASELINES.items()}
        return {**{entry.name: entry.predictor for entry in self.entries}, **baselines}


def evaluate(config: EvaluateConfig) -> Iterator[Result]:
    """Yields each result when its set is scored and all is written; only the first process yields any.

    All that can be wrong is found before the folder is made. Raises ValueError with one sentence for what a user can
    mend.
    """
    accelerator = make_accelerator(config.device, config.precision, timeout=_TIMEOUT)
    import_plugin(config.plugin)
    evaluation = _Evaluation(config, accelerator)
    with ExitStack() as stack:
        refusal, unfinished = None, None
        try:
            unfinished = stack.enter_context(evaluation.folder()) if accelerator.is_main_process else None
        except ValueError as error:
            refusal = error
        (refused,) = broadcast_object_list([refusal is not None])
        if refusal:
            raise refusal
        if refused:
            sys.exit(1)  # the first process says why
        for job in evaluation.jobs:
            scores = evaluation.score(job, unfinished)
            if accelerator.is_main_process:
                yield from evaluation.conclude(job, scores)
    accelerator.end_training()


class _Evaluation:
    """The jobs of one command, and what it takes to do them."""

    def __init__(self, config: EvaluateConfig, accelerator: Accelerator) -> None:
        self.config, self.accelerator = config, accelerator
        if config.batch_size < accelerator.num_processes:
            raise ValueError(
                f"--batch-size {config.batch_size} leaves some of {accelerator.num_processes} processes without a "
                "photograph: enlarge it"
            )
        self._prior = None if config.prior is None else np.array(load_prior(config.prior, "--prior"))
        device = accelerator.device
        self._perceptual = {"lpips": load_lpips(device)} if "lpips" in config.further else {}
        self._make_fid = partial(Fid, device=device) if "fid" in config.further else None
        if self._make_fid:
            self._make_fid([""])  # it must be found now that it cannot be made
        # The first process looks for the files: a run that is still in training has others a moment later.
        files = [model_file(Path(path)) for path in config.checkpoints] if accelerator.is_main_process else None
        self._files: list[Path] = broadcast_object_list([files])[0]
        self.jobs = _jobs(config, self._entries())
        for job in self.jobs:  # what is wrong with them
            self._loader(job).close()
        self._protocol = Protocol(
            crop=config.crop,
            precision=str(accelerator.mixed_precision).replace("no", "fp32"),
            prior=None if config.prior is None else str(config.prior),
            versions=versions(),
        )
        self._sections: list[Section] = []

    def _entries(self) -> list[_Entry]:
        entries: list[_Entry] = []
        for checkpoint, file in zip(map(Path, self.config.checkpoints), self._files, strict=True):
            model, metadata = load_with_metadata(file, self.accelerator.device)
            if self.accelerator.device.type == "cuda":
                model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            predictor = ModelPredictor(
                self.accelerator.prepare_model(model, evaluation_mode=True),
                build_loss(metadata.loss).to(self.accelerator.device),
            )
            name = _unused(model_name(checkpoint), {TRUTH, *BASELINES, *(entry.name for entry in entries)})
            entries.append(_Entry(name=name, predictor=predictor, checkpoint=checkpoint, metadata=metadata))
        return entries

    def folder(self) -> AbstractContextManager[Path]:
        """The folder of the report, with a place for the rows of what is not finished."""
        return claim_resumable_output(
            self.config.out,
            self._settings(),
            job="evaluation",
            work_name=".unfinished",
            resume=self.config.resume,
            resume_hint="--resume continues from here",
        )

    def _settings(self) -> dict[str, Any]:
        """What must be the same for a stopped evaluation to go on."""
        config = to_plain_dict(self.config)
        for free in ("resume", "batch_size", "device"):
            del config[free]
        return {
            **config,
            "precision": self._protocol.precision,
            "sha256 of the prior": None if self._prior is None else hashlib.sha256(self._prior.tobytes()).hexdigest(),
            "models": [sha256_of(file) for file in self._files],
            "sets": [job.data.digest for job in self.jobs],
        }

    def score(self, job: _Job, unfinished: Path | None = None) -> SetScores:
        """Scores what is not scored yet; all processes take part, and the first one, which has a folder, gets it."""
        predictors, total = job.predictors, job.data.num_samples
        saved = unfinished / f"{job.name}.fid.json" if unfinished else None
        (anew,) = broadcast_object_list([bool(self._make_fid and saved and not saved.exists())])
        fid = self._make_fid(list(predictors)) if self._make_fid and anew else None
        prior = job.data.prior if self._prior is None else self._prior
        scorer = Scorer(predictors, prior, self._perceptual, **({"seen": fid.update} if fid else {}))
        file = RowFile(unfinished / f"{job.name}.rows", scorer.fields) if unfinished else None
        if file is not None and fid:
            file.clear()  # of FID, the photographs before are forgotten
        done = broadcast_object_list([None if file is None else len(file)])[0]
        if done < total:
            for rows in self._rows(job, scorer, done):
                if file is not None:
                    file.append(rows)
        return SetScores(
            data=job.data,
            size=job.size,
            rows=np.empty(0, scorer.fields) if file is None else file.read(),
            fid=self._fid(fid, saved),
        )

    def _rows(self, job: _Job, scorer: Scorer, done: int) -> Iterator[Rows]:
        loader = self._loader(job, samples=range(done, job.data.num_samples))
        with progress_bar(job.name, "photographs", enabled=self.accelerator.is_main_process) as progress:

            def between(batches: int) -> bool:
                progress(done + batches * self.config.batch_size, job.data.num_samples)
                return False

            yield from scorer.rows(loader, every=_EVERY, stop=between)
        loader.close()

    def _fid(self, fid: Fid | None, saved: Path | None) -> dict[str, float]:
        """FID of what was scored now, or before."""
        found = fid.compute() if fid else {}
        if saved is None:
            return found
        if fid:
            write_json(saved, found)
        return json.loads(saved.read_text()) if saved.exists() else {}

    def conclude(self, job: _Job, scores: SetScores) -> list[Result]:
        """Writes what is scored of a job, and the report of all jobs so far."""
        results = [self._result(job, entry, scores) for entry in job.entries]
        for result, entry in zip(results, job.entries, strict=True):
            if not (self.config.out / result.name).exists():
                self._write(result, job, entry.predictor)
        self._sections.append(Section(results=results, out=self.config.out))
        write_report(self._sections, self.config.out / REPORT, self._protocol)
        all_results = [result for section in self._sections for result in section.results]
        summaries = [result.summary(list(BASELINES), self._protocol) for result in all_results]
        write_json(self.config.out / "summary.json", {"results": summaries})
        save_yaml(self.config, self.config.out / "config.yaml")
        return results

    def _result(self, job: _Job, entry: _Entry, scores: SetScores) -> Result:
        by = self.config.gallery_by or "loss"
        by = "rmse_ab" if by == "loss" and not entry.predictor.has_loss else by
        best, worst = chosen(scores.rows[f"{entry.name}/{by}"], str(METRICS[by].best), self.config.gallery)
        return Result(
            name=f"{entry.name}-on-{job.name}",
            predictor=entry.name,
            checkpoint=entry.checkpoint,
            metadata=entry.metadata,
            scores=scores,
            by=by,
            best=best,
            worst=worst,
        )

    def _write(self, result: Result, job: _Job, predictor: Predictor) -> None:
        with result_folder(self.config.out / result.name) as folder:
            for gallery, samples in ((BEST, result.best), (WORST, result.worst)):
                loader = self._loader(job, shared=False, samples=samples)
                write_gallery(folder / gallery, predictor, loader)
                loader.close()
            write_figures(result, folder, list(BASELINES), self._protocol)

    def _loader(self, job: _Job, *, samples: Sequence[int] | None = None, shared: bool = True) -> Loader:
        return evaluation_loader(
            LoaderConfig(),
            job.data,
            self.accelerator,
            shared=shared,
            size=job.size,
            crop=self.config.crop,
            batch_size=min(self.config.batch_size, len(samples)) if samples else self.config.batch_size,
            samples=samples,
        )


def _jobs(config: EvaluateConfig, entries: list[_Entry]) -> list[_Job]:
    """One for each shard set and each size at which it is seen."""
    own = {entry.name: config.size or entry.metadata.size for entry in entries if entry.metadata}
    first = next(iter(own.values()), config.size or _SIZE)
    own |= dict.fromkeys(config.baseline, first)
    jobs: list[_Job] = []
    names: list[str] = []
    for data in map(ShardSet.open, config.data):
        everything = [*entries, *(_Entry(name=name, predictor=BASELINES[name](data)) for name in config.baseline)]
        names.append(_unused(data.root.resolve().name, set(names)))
        for size in dict.fromkeys(own.values()):
            at_size = f"{names[-1]}-at-{size}" if len(set(own.values())) > 1 else names[-1]
            seen = [entry for entry in everything if own[entry.name] == size]
            jobs.append(_Job(name=at_size, data=data, size=size, entries=seen))
    return jobs


def _unused(name: str, used: set[str]) -> str:
    return next(other for other in chain([name], (f"{name}-{n}" for n in count(2))) if other not in used)
