from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from photochrom.engine.configuration.config import (
    CheckpointConfig,
    ClassSpec,
    DataConfig,
    LoaderConfig,
    LogConfig,
    ModelSpec,
    RunConfig,
    ScheduleConfig,
    TrainConfig,
)
from photochrom.engine.training.run import train
from photochrom.pipelines import ShardSet

Configure = Callable[..., RunConfig]


@pytest.fixture(scope="session")
def configure(shards: ShardSet) -> Configure:
    """Returns a function that configures a run of some seconds; settings such as train__steps override its own."""

    def make(out: Path, **settings: Any) -> RunConfig:
        sections: dict[str, dict[str, Any]] = {
            "data": {"train": shards.root, "size": 32},
            "optim": {"lr": 1e-4},
            "schedule": {},
            "loader": {"threads": 1},
            "train": {"steps": 20, "batch_size": 4, "device": "cpu", "precision": "fp32"},
            "checkpoint": {"every": 10},
            "log": {"every": 1, "preview_every": 10, "validate_every": 10, "num_previews": 2},
        }
        whole: dict[str, Any] = {"out": out, "model": ModelSpec(class_path="VGGColorizer", init_args={"width": 0.0625})}
        optim = settings.pop("optim", "Adam")
        for name, value in settings.items():
            section, _, key = name.partition("__")
            if key:
                sections[section][key] = value
            else:
                whole[name] = value
        return RunConfig(
            data=DataConfig(**sections["data"]),
            optim=ClassSpec(class_path=optim, init_args=sections["optim"]),
            schedule=ScheduleConfig(**sections["schedule"]),
            loader=LoaderConfig(**sections["loader"]),
            train=TrainConfig(**sections["train"]),
            checkpoint=CheckpointConfig(**sections["checkpoint"]),
            log=LogConfig(**sections["log"]),
            **whole,
        )

    return make


@pytest.fixture(scope="session")
def trained(configure: Configure, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the folder of a finished run of 20 steps, validated on its own photographs."""
    out = tmp_path_factory.mktemp("runs") / "trained"
    config = configure(out)
    train(configure(out, data__val=config.data.train))
    return out
