"""torch's DataLoader over files, with OpenCV."""

from pathlib import Path

from .dataloader import Files, endless
from .decoding import Planes, by_opencv
from .task import Batches, Task

NEEDS = ("cv2",)
INSTALL = "pip install -e '.[rivals-opencv]'"


def batches(task: Task) -> Batches:
    return endless(Files(task, _planes), task)


def _planes(path: str, task: Task) -> Planes:
    return by_opencv(Path(path).read_bytes(), task)
