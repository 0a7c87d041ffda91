"""Plans an evaluation: all predictors that see one shard set at one size share one pass over it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator

from ...pipelines import ShardSet
from ...pipelines.files import sha256_of
from ..checkpoints.model_file import ModelMetadata, load_with_metadata, model_name, unique_name
from ..configuration.registry import build_loss
from .config import EvaluateConfig
from .predictors import BASELINES, ModelPredictor, Predictor
from .score import TRUTH

_SIZE = 256  # of baselines, when there is no model


@dataclass(frozen=True, kw_only=True)
class NamedPredictor:
    """A predictor and its name in the results. Baselines have no checkpoint, no metadata and no sha256 of a file."""

    name: str
    predictor: Predictor
    checkpoint: Path | None = None
    metadata: ModelMetadata | None = None
    sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class EvaluationPass:
    """One pass over one shard set at one size, and the predictors to report on."""

    name: str
    data: ShardSet
    size: int
    reported: list[NamedPredictor]

    @property
    def predictors(self) -> dict[str, Predictor]:
        """Returns the predictors to score by name: those to report on, and the baselines of every table."""
        baselines = {name: make(self.data) for name, make in BASELINES.items()}
        return {**{entry.name: entry.predictor for entry in self.reported}, **baselines}


def load_models(checkpoints: Sequence[str], files: Sequence[Path], accelerator: Accelerator) -> list[NamedPredictor]:
    """Loads the models in `files` onto the device, named after the `checkpoints` that the user gave."""
    models: list[NamedPredictor] = []
    for checkpoint, file in zip(map(Path, checkpoints), files, strict=True):
        model, metadata = load_with_metadata(file, accelerator.device)
        if accelerator.device.type == "cuda":
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        predictor = ModelPredictor(
            accelerator.prepare_model(model, device_placement=True, evaluation_mode=True),
            build_loss(metadata.loss).to(accelerator.device),
        )
        name = unique_name(model_name(checkpoint), {TRUTH, *BASELINES, *(other.name for other in models)})
        models.append(
            NamedPredictor(
                name=name, predictor=predictor, checkpoint=checkpoint, metadata=metadata, sha256=sha256_of(file)
            )
        )
    return models


def plan_passes(config: EvaluateConfig, models: Sequence[NamedPredictor]) -> list[EvaluationPass]:
    """Returns a pass for each shard set and each size. Baselines are seen at the size of the first model."""
    sizes = {model.name: config.size or model.metadata.size for model in models if model.metadata}
    sizes |= dict.fromkeys(config.baseline, next(iter(sizes.values()), config.size or _SIZE))
    passes: list[EvaluationPass] = []
    set_names: list[str] = []
    for data in map(ShardSet.open, config.data):
        baselines = [NamedPredictor(name=name, predictor=BASELINES[name](data)) for name in config.baseline]
        set_names.append(unique_name(data.root.resolve().name, set(set_names)))
        for size in dict.fromkeys(sizes.values()):
            name = f"{set_names[-1]}-at-{size}" if len(set(sizes.values())) > 1 else set_names[-1]
            reported = [entry for entry in (*models, *baselines) if sizes[entry.name] == size]
            passes.append(EvaluationPass(name=name, data=data, size=size, reported=reported))
    return passes
