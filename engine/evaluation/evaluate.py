"""Evaluates models on whole shard sets, and continues an evaluation that was interrupted."""

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from ...losses.rebalancing import load_prior
from ...pipelines.files import sha256_of
from ...pipelines.loading.base import Loader
from ...pipelines.output_dir import claim_resumable_output, write_json
from ...pipelines.structured import read_json, validated
from ..checkpoints.model_file import model_file
from ..configuration.config import LoaderConfig, save_yaml, to_plain_dict
from ..configuration.registry import import_plugin
from ..console import progress_bar
from ..distributed import call_on_main_process, make_accelerator
from ..doctor import versions
from ..loaders import evaluation_loader
from ..provenance import provenance
from .config import EvaluateConfig
from .gallery import best_and_worst, write_gallery
from .passes import EvaluationPass, NamedPredictor, load_models, plan_passes
from .perceptual import Fid, load_lpips
from .predictors import Predictor
from .report import REPORT, Section, write_report
from .results import BEST, WORST, Protocol, Result, SetScores, write_tables
from .row_file import RowFile
from .score import Scorer
from .summary import METRICS

_EVERY = 16  # batches between two writes of rows
_TIMEOUT = 7200  # seconds: the first process writes while the others wait


def evaluate(config: EvaluateConfig) -> Iterator[Result]:
    """Yields each result when its set is scored and its files are written. Only the first process yields results.

    Checks everything before it makes the folder. Raises ValueError with one sentence for what a user can correct.
    """
    accelerator = make_accelerator(config.device, config.precision, timeout=_TIMEOUT)
    import_plugin(config.plugin)
    evaluator = _Evaluator(config, accelerator)
    with ExitStack() as stack:
        folder = call_on_main_process(lambda: stack.enter_context(evaluator.claim_output()))
        work = folder if accelerator.is_main_process else None
        for evaluation_pass in evaluator.passes:
            scores = evaluator.score(evaluation_pass, work)
            if work is not None:
                yield from evaluator.write(evaluation_pass, scores, work)


class _Evaluator:
    """Scores the passes of one command, and writes their results."""

    def __init__(self, config: EvaluateConfig, accelerator: Accelerator) -> None:
        self.config, self.accelerator = config, accelerator
        if config.batch_size < accelerator.num_processes:
            raise ValueError(
                f"--batch-size {config.batch_size} leaves some of {accelerator.num_processes} processes without a "
                "photograph: enlarge it"
            )
        self._prior = None if config.prior is None else np.array(load_prior(config.prior, "--prior"))
        device, perceptual = accelerator.device, config.metrics
        self._perceptual = {"lpips": load_lpips(device)} if "lpips" in perceptual else {}
        self._make_fid = partial(Fid, device=device) if "fid" in perceptual else None
        if self._make_fid:
            self._make_fid([""])  # raises now, not after a set has been scored
        # The first process finds the files: a run that is still training has newer ones a moment later.
        self._files = call_on_main_process(lambda: [model_file(Path(path)) for path in config.checkpoints])
        self.passes = plan_passes(config, load_models(config.checkpoints, self._files, accelerator))
        for evaluation_pass in self.passes:
            self._loader(evaluation_pass).close()  # raises now what is wrong with the set
        self._protocol = Protocol(
            crop=config.crop,
            precision=str(accelerator.mixed_precision).replace("no", "fp32"),
            prior=None if config.prior is None else str(config.prior),
            versions=versions(),
        )
        self._sections: list[Section] = []

    def claim_output(self) -> AbstractContextManager[Path]:
        """Claims the report's folder; yields a folder for the rows of unfinished passes."""
        return claim_resumable_output(
            self.config.out,
            self._identity(),
            job="evaluation",
            work_name=".unfinished",
            resume=self.config.resume,
            resume_hint="--resume continues from here",
        )

    def _identity(self) -> dict[str, Any]:
        """Returns what an interrupted evaluation and the one that continues it must have in common."""
        config = to_plain_dict(self.config)
        for name in ("resume", "batch_size", "device"):
            del config[name]
        return {
            **config,
            "precision": self._protocol.precision,
            "sha256 of the prior": None if self._prior is None else hashlib.sha256(self._prior.tobytes()).hexdigest(),
            "models": [sha256_of(file) for file in self._files],
            "sets": [evaluation_pass.data.digest for evaluation_pass in self.passes],
        }

    def score(self, evaluation_pass: EvaluationPass, work: Path | None) -> SetScores:
        """Scores the photographs that have no row yet. Every process takes part.

        Only the first process has a `work` folder, and returns rows.
        """
        predictors, data = evaluation_pass.predictors, evaluation_pass.data
        fid_file = work / f"{evaluation_pass.name}.fid.json" if work else None
        (needs_fid,) = broadcast_object_list([bool(self._make_fid and fid_file and not fid_file.exists())])
        fid = self._make_fid(list(predictors)) if self._make_fid and needs_fid else None
        prior = data.prior if self._prior is None else self._prior
        scorer = Scorer(predictors, prior, self._perceptual, on_prediction=fid.update if fid else None)
        row_file = work / f"{evaluation_pass.name}.rows" if work else None
        if row_file and fid:
            row_file.unlink(missing_ok=True)  # FID keeps no state of the photographs before
        file = RowFile(row_file, scorer.fields) if row_file else None
        (num_scored,) = broadcast_object_list([None if file is None else len(file)])
        if num_scored < data.num_samples:
            loader = self._loader(evaluation_pass, samples=range(num_scored, data.num_samples))
            with progress_bar(evaluation_pass.name, "photographs", enabled=file is not None) as progress:
                for rows in scorer.rows(loader, every=_EVERY):
                    if file is not None:
                        file.append(rows)
                        progress(len(file), data.num_samples)
            loader.close()
        return SetScores(
            data=data,
            size=evaluation_pass.size,
            rows=np.empty(0, scorer.fields) if file is None else file.read(),
            fid=_compute_fid(fid, fid_file),
        )

    def write(self, evaluation_pass: EvaluationPass, scores: SetScores, work: Path) -> list[Result]:
        """Writes the results of a pass, and the report on all passes so far."""
        config, reported = self.config, evaluation_pass.reported
        results = [self._result(evaluation_pass, entry, scores) for entry in reported]
        for result, entry in zip(results, reported, strict=True):
            if not (config.out / result.name).exists():
                self._write_result(result, evaluation_pass, entry.predictor, work / result.name)
        self._sections.append(Section(results=results, out=config.out))
        write_report(self._sections, config.out / REPORT, self._protocol)
        all_results = [result for section in self._sections for result in section.results]
        summaries = [result.summary(self._protocol) for result in all_results]
        write_json(config.out / "summary.json", {"results": summaries, "provenance": provenance()})
        save_yaml(config, config.out / "config.yaml")
        return results

    def _result(self, evaluation_pass: EvaluationPass, entry: NamedPredictor, scores: SetScores) -> Result:
        ranked_by = self.config.gallery_by or "loss"
        if ranked_by == "loss" and not entry.predictor.has_loss:
            ranked_by = "rmse_ab"
        values = scores.rows[f"{entry.name}/{ranked_by}"]
        best, worst = best_and_worst(values, str(METRICS[ranked_by].best), self.config.gallery)
        return Result(
            name=f"{entry.name}-on-{evaluation_pass.name}",
            predictor=entry.name,
            checkpoint=entry.checkpoint,
            metadata=entry.metadata,
            sha256=entry.sha256,
            scores=scores,
            ranked_by=ranked_by,
            best=best,
            worst=worst,
        )

    def _write_result(
        self, result: Result, evaluation_pass: EvaluationPass, predictor: Predictor, folder: Path
    ) -> None:
        """Writes a result into the temporary `folder`, which is then moved."""
        shutil.rmtree(folder, ignore_errors=True)  # of an evaluation that was interrupted here
        folder.mkdir()
        for gallery, samples in ((BEST, result.best), (WORST, result.worst)):
            loader = self._loader(evaluation_pass, shared=False, samples=samples)
            write_gallery(folder / gallery, predictor, loader)
            loader.close()
        write_tables(result, folder, self._protocol)
        folder.rename(self.config.out / result.name)

    def _loader(
        self, evaluation_pass: EvaluationPass, *, samples: Sequence[int] | None = None, shared: bool = True
    ) -> Loader:
        return evaluation_loader(
            LoaderConfig(),
            evaluation_pass.data,
            self.accelerator,
            shared=shared,
            size=evaluation_pass.size,
            crop=self.config.crop,
            batch_size=min(self.config.batch_size, len(samples)) if samples else self.config.batch_size,
            samples=samples,
        )


def _compute_fid(fid: Fid | None, file: Path | None) -> dict[str, float]:
    """Returns each predictor's FID and keeps it in `file`, or reads it from there. Every process must call this."""
    values = fid.compute() if fid else {}
    if file is None:
        return values
    if fid:
        write_json(file, values)
    return validated(dict[str, float], read_json(file), str(file)) if file.exists() else {}
