"""The log of a run: metrics.jsonl, preview pictures and trackers. Only the main process writes."""

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...pipelines.files import atomic_write
from ...pipelines.structured import parse_json
from .trackers import Trackers


class MetricsLogger:
    """A log in a run's folder.

    A run that resumes at `step` first removes what was logged after it, and validations after `validated_until`, which
    are repeated. Metrics and pictures that cannot be written, on a full disk, are lost; `warn` is called once.
    """

    def __init__(
        self, folder: Path, step: int, trackers: Trackers, warn: Callable[[str], None], *, validated_until: int
    ) -> None:
        self._folder, self._trackers, self._warn = folder, trackers, warn
        self._path = folder / "metrics.jsonl"
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        kept = [line for line in lines if _is_logged_until(line, step, validated_until)]
        with atomic_write(self._path) as file:
            file.write_text("".join(f"{line}\n" for line in kept))
        for later in folder.glob("previews/step-*.jpg"):
            if later.name > f"step-{step:08d}.jpg":
                later.unlink()
        self._has_warned = False

    def metrics(self, values: dict[str, float], step: int) -> None:
        """Adds a line of metrics; their keys carry the units."""
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}  # JSON has no nan
        line = json.dumps({"step": step, **finite}) + "\n"
        with self._warning_once(), open(self._path, "a") as file:
            file.write(line)
        self._trackers.metrics(values, step)

    def preview(self, picture: NDArray[np.uint8], step: int) -> None:
        """Saves a picture (H, W, 3) of predictions."""
        file = self._folder / "previews" / f"step-{step:08d}.jpg"
        with self._warning_once():
            file.parent.mkdir(exist_ok=True)
            Image.fromarray(picture).save(file, quality=95, subsampling=0)
        self._trackers.preview(picture, step)

    def close(self) -> None:
        """Closes the trackers."""
        self._trackers.close()

    @contextmanager
    def _warning_once(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not self._has_warned:
                self._warn(f"metrics or pictures of this run are lost ({error}): training continues")
            self._has_warned = True


def _is_logged_until(line: str, step: int, validated_until: int) -> bool:
    """True for a whole line of `step` or earlier; a killed run can leave its last line cut."""
    try:
        values = parse_json(line, "a line")
        is_validation = any(name.startswith("val/") for name in values)
        return bool(values["step"] <= (min(step, validated_until) if is_validation else step))
    except (ValueError, KeyError, TypeError):
        return False
