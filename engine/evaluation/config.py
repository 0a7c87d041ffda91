"""Options of `photochrom evaluate`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ...pipelines.ranges import COUNT, SIDE, check_ranges
from ..configuration.config import Device, Precision
from .summary import METRICS, PERCEPTUAL


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Scores models on whole shard sets, each photograph once, and shows the best and the worst predictions.

    Args:
        checkpoints: Run folders, checkpoints, model.safetensors files, or shipped models by name.
        data: Shard sets to score on.
        out: New folder for the report.
        baseline: Constant predictions to show like a model: grey, or mean, the set's mean colour. Every table lists
            both in any case.
        size: Side in pixels at which photographs are scored. By default each model's training size; 256 without models.
        crop: squash scores the whole photograph, squashed to a square; center scores its largest centred square.
        prior: Shares of the ab bins for the rebalanced AuC: a shard set or a .npy file. By default each set's own.
        metrics: Metrics to add, lpips or fid. They need torchmetrics and published weights.
        gallery: Number of best and of worst photographs to show.
        gallery_by: Metric that ranks photographs, such as loss, rmse_ab or psnr. By default loss; rmse_ab for
            baselines, which have no loss.
        batch_size: Photographs per batch, over all processes.
        precision: Precision of the network's arithmetic: auto, bf16, fp16 or fp32.
        device: auto, cuda or cpu.
        resume: Continue the interrupted evaluation in out.
        plugin: Python module to import first, when the model or loss is one of your own.
    """

    checkpoints: list[str] = field(default_factory=list)
    data: list[str]
    out: Path
    baseline: list[Literal["grey", "mean"]] = field(default_factory=list)
    size: int | None = None
    crop: Literal["squash", "center"] = "squash"
    prior: Path | None = None
    metrics: list[Literal["lpips", "fid"]] = field(default_factory=list)
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
        check_ranges(self, size=SIDE, batch_size=COUNT, gallery=COUNT)
        missing = set(PERCEPTUAL).difference(self.metrics)
        ranking = [name for name, metric in METRICS.items() if metric.best and name not in missing]
        if self.gallery_by not in (None, *ranking):
            raise ValueError(f"--gallery-by {self.gallery_by} ranks no photographs; known are {', '.join(ranking)}")
