"""torch's DataLoader over files, with OpenCV."""

from pathlib import Path

from .decoding import Files, Planes, by_opencv, endless
from .task import Batches, Task

NEEDS = ("cv2",)
INSTALL = "pip install -e '.[rivals-opencv]'"


def batches(task: Task) -> Batches:
    return endless(Files(task, _planes), task)


def _planes(path: str, task: Task) -> Planes:
    return by_opencv(Path(path).read_bytes(), task)
