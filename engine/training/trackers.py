"""Accelerate's trackers: TensorBoard, Weights & Biases and the others, none of which can stop a run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, get_available_trackers
from numpy.typing import NDArray

from ..configuration.config import flatten

_PROJECT = "photochrom"


class Trackers:
    """Trackers by name; one that fails is told of and left out from then on.

    Args:
        names: Of LOGGER_TYPE_TO_CLASS.
        folder: The run's.
        step: At which the run begins, or goes on.
        config: The run's, as plain values.
        warn: Is told, in a sentence, of what fails.
    """

    def __init__(
        self, names: list[str], folder: Path, step: int, config: dict[str, Any], warn: Callable[[str], None]
    ) -> None:
        self._warn = warn
        self._trackers: dict[str, Any] = dict.fromkeys(names)
        self._each("make", lambda name, _: self._trackers.update({name: _make(name, folder, step)}))
        self._each("start", lambda name, tracker: tracker.start())
        self._each("store_init_configuration", lambda name, tracker: _describe(name, tracker, config))

    def metrics(self, values: dict[str, float], step: int) -> None:
        self._each("log", lambda name, tracker: tracker.log(values, step=step))

    def preview(self, picture: NDArray[np.uint8], step: int) -> None:
        """A picture (H, W, 3), for those that take pictures."""
        self._each("log_images", lambda name, tracker: _show(name, tracker, picture, step))

    def close(self) -> None:
        self._each("finish", lambda name, tracker: tracker.finish())

    def _each(self, what: str, act: Callable[[str, GeneralTracker], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                act(name, tracker)
            except Exception as error:  # whatever goes wrong in a service of others, the run is worth more
                del self._trackers[name]
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
                self._warn(f"the tracker {name} has failed ({what}: {reason}): training goes on without it")


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
    if name == "tensorboard":  # into the run's own folder, without what is to be done again
        return cls("tensorboard", folder, purge_step=step + 1)
    if name == "wandb":
        return cls(_PROJECT, dir=str(folder), name=folder.name)
    return cls(_PROJECT, folder / name) if cls.requires_logging_directory else cls(_PROJECT)


def _describe(name: str, tracker: GeneralTracker, config: dict[str, Any]) -> None:
    if name == "tensorboard":  # it would make a folder of its own for every start
        tracker.tracker.add_text("config", "\n".join(f"    {key}: {value}" for key, value in flatten(config).items()))
    else:
        tracker.store_init_configuration(flatten(config))


def _show(name: str, tracker: GeneralTracker, picture: NDArray[np.uint8], step: int) -> None:
    if not hasattr(tracker, "log_images"):
        return
    formats = {"dataformats": "NHWC"} if name == "tensorboard" else {}
    tracker.log_images({"preview": picture[None]}, step=step, **formats)
