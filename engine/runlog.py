"""Where a run's metrics go: metrics.jsonl, TensorBoard and preview pictures. Only the first process writes."""

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..pipelines.files import whole_file


class Log:
    """The log of every process but the first: nothing."""

    def metrics(self, values: dict[str, float], step: int) -> None:
        """Adds one line of metrics; their keys carry the units."""

    def preview(self, picture: NDArray[np.uint8], step: int) -> None:
        """Saves a picture (H, W, 3) of how the run colorizes."""

    def close(self) -> None:
        """Ends the log."""


class RunLog(Log):
    """Writes to a run's folder; a run that resumes at `step` takes back what was logged after it."""

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._folder = folder
        path = folder / "metrics.jsonl"
        kept = [line for line in path.read_text().splitlines() if _logged_by(line, step)] if path.exists() else []
        with whole_file(path) as file:
            file.write_text("".join(f"{line}\n" for line in kept))
        for later in folder.glob("previews/step-*.jpg"):
            if later.name > f"step-{step:08d}.jpg":
                later.unlink()
        self._file = open(path, "a", buffering=1)  # noqa: SIM115  closed with the log
        self._tensorboard = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def metrics(self, values: dict[str, float], step: int) -> None:
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        for key, value in values.items():
            self._tensorboard.add_scalar(key, value, step)

    def preview(self, picture: NDArray[np.uint8], step: int) -> None:
        folder = self._folder / "previews"
        folder.mkdir(exist_ok=True)
        Image.fromarray(picture).save(folder / f"step-{step:08d}.jpg", quality=95, subsampling=0)
        self._tensorboard.add_image("preview", picture, step, dataformats="HWC")

    def close(self) -> None:
        self._file.close()
        self._tensorboard.close()


def _logged_by(line: str, step: int) -> bool:
    """Whether a line was whole and logged no later than `step`; a killed run can leave its last line cut."""
    try:
        return bool(json.loads(line)["step"] <= step)
    except (ValueError, KeyError, TypeError):
        return False
