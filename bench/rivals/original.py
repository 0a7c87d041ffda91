"""The original project's recipe: torch's DataLoader over files, Pillow, scikit-image in float64."""

from .decoding import Files, Planes, by_pillow, endless
from .task import Batches, Task

NEEDS = ("PIL", "skimage")


def batches(task: Task) -> Batches:
    return endless(Files(task, _planes), task)


def _planes(path: str, task: Task) -> Planes:
    from PIL import Image

    return by_pillow(Image.open(path), task)
