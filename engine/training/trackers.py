"""Accelerate's trackers: TensorBoard, Weights & Biases and others; their failures do not stop a run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, get_available_trackers
from numpy.typing import NDArray

from ..configuration.config import flatten

_PROJECT = "photochrom"


class Trackers:
    """Trackers by name; one that fails is reported once and not used any more.

    Args:
        names: Keys of LOGGER_TYPE_TO_CLASS.
        folder: Folder of the run.
        step: Step at which the run starts or resumes.
        config: Configuration of the run, as plain values.
        warn: Called with a sentence for each tracker that fails.
    """

    def __init__(
        self, names: list[str], folder: Path, step: int, config: dict[str, Any], warn: Callable[[str], None]
    ) -> None:
        self._warn = warn
        self._trackers: dict[str, Any] = dict.fromkeys(names)
        self._call_each("make", lambda name, _: self._trackers.update({name: _make(name, folder, step)}))
        self._call_each("start", lambda name, tracker: tracker.start())
        self._call_each("store_init_configuration", lambda name, tracker: _log_config(name, tracker, config))

    def metrics(self, values: dict[str, float], step: int) -> None:
        self._call_each("log", lambda name, tracker: tracker.log(values, step=step))

    def preview(self, picture: NDArray[np.uint8], step: int) -> None:
        """Logs a picture (H, W, 3) with the trackers that take pictures."""
        self._call_each("log_images", lambda name, tracker: _log_picture(name, tracker, picture, step))

    def close(self) -> None:
        self._call_each("finish", lambda name, tracker: tracker.finish())

    def _call_each(self, what: str, act: Callable[[str, GeneralTracker], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                act(name, tracker)
            except Exception as error:  # whatever goes wrong in a tracker, the run is worth more
                del self._trackers[name]
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
                self._warn(f"the tracker {name} has failed ({what}: {reason}): training continues without it")


def check_trackers(names: list[str]) -> None:
    """Raises ValueError for a tracker that is unknown or not installed."""
    available = sorted(map(str, get_available_trackers()))
    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise ValueError(
                f"log.trackers has {name!r}, which is unknown: known are {', '.join(LOGGER_TYPE_TO_CLASS)}"
            )
        if name not in available:
            raise ValueError(f"log.trackers has {name!r}, which is not installed: pip install {name}")


def _make(name: str, folder: Path, step: int) -> GeneralTracker:
    cls = LOGGER_TYPE_TO_CLASS[name]
    if name == "tensorboard":  # in the run's own folder, without the steps that will be repeated
        return cls("tensorboard", folder, purge_step=step + 1)
    if name == "wandb":
        return cls(_PROJECT, dir=str(folder), name=folder.name)
    return cls(_PROJECT, folder / name) if cls.requires_logging_directory else cls(_PROJECT)


def _log_config(name: str, tracker: GeneralTracker, config: dict[str, Any]) -> None:
    flat = flatten(config)
    if name == "tensorboard":  # store_init_configuration would make another folder at every start
        tracker.tracker.add_text("config", "\n".join(f"    {key}: {value}" for key, value in flat.items()))
    else:  # trackers take no lists
        plain = (bool, int, float, str)
        tracker.store_init_configuration({key: v if isinstance(v, plain) else str(v) for key, v in flat.items()})


def _log_picture(name: str, tracker: GeneralTracker, picture: NDArray[np.uint8], step: int) -> None:
    if not hasattr(tracker, "log_images"):
        return
    formats = {"dataformats": "NHWC"} if name == "tensorboard" else {}
    tracker.log_images({"preview": picture[None]}, step=step, **formats)
