"""Decodes photographs to L and ab with Pillow or OpenCV, and torch's DataLoader, for rivals without their own.

Decoders return L (1, S, S) and ab (2, S, S), float32 in Lab units.
"""

import random
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from .task import Task, files, random_box

Planes = tuple[Any, Any]


def by_pillow(picture: Any, task: Task) -> Planes:
    """Converts a PIL picture with the bicubic filter, and scikit-image in float64."""
    import numpy as np
    from skimage.color import rgb2lab

    return _planes(rgb2lab(np.asarray(cut(picture, task))))


def by_opencv(jpeg: bytes, task: Task) -> Planes:
    """Converts a JPEG with OpenCV: its decoder, its area filter, its Lab in float32."""
    import numpy as np

    cv2 = _opencv()
    picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    mirror = False
    if task.crop != "squash":
        left, top, right, bottom = random_box(picture.shape[1], picture.shape[0])
        picture, mirror = picture[top:bottom, left:right], random.random() < 0.5
    picture = cv2.resize(picture, (task.size, task.size), interpolation=cv2.INTER_AREA)
    return opencv_lab(cv2.flip(picture, 1) if mirror else picture, from_bgr=True)


def opencv_lab(picture: Any, *, from_bgr: bool = False) -> Planes:
    """Converts an array (S, S, 3) of sRGB bytes with OpenCV."""
    import numpy as np

    cv2 = _opencv()
    code = cv2.COLOR_BGR2LAB if from_bgr else cv2.COLOR_RGB2LAB
    return _planes(cv2.cvtColor(picture.astype(np.float32) / 255, code))


def cut(picture: Any, task: Task) -> Any:
    """Returns a PIL picture cropped or squashed for the task, with Pillow's bicubic filter."""
    from PIL import Image

    size = (task.size, task.size)
    picture = picture.convert("RGB")
    if task.crop == "squash":
        return picture.resize(size, Image.Resampling.BICUBIC)
    picture = picture.crop(random_box(*picture.size)).resize(size, Image.Resampling.BICUBIC)
    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if random.random() < 0.5 else picture


@cache
def _opencv() -> Any:
    import cv2

    cv2.setNumThreads(0)  # its threads in each worker would compete
    return cv2


def _planes(lab: Any) -> Planes:
    import numpy as np
    import torch

    planes = torch.from_numpy(lab.astype(np.float32, copy=False)).permute(2, 0, 1)
    return planes[:1], planes[1:]


class Files:
    """Dataset of a folder's photographs: L, ab and the number; `planes` makes L and ab from a path."""

    def __init__(self, task: Task, planes: Callable[[str, Task], Planes]) -> None:
        self._paths, self._task, self._planes = files(task.data), task, planes

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, number: int) -> tuple[Any, Any, int]:
        return *self._planes(self._paths[number], self._task), number


def endless(dataset: Any, task: Task) -> Iterator[Any]:
    """Yields batches of one endless epoch, so that queues stay full: each photograph once, then each again."""
    from torch.utils.data import DataLoader, RandomSampler

    sampler = RandomSampler(dataset, num_samples=len(dataset) * 10**6)
    yield from DataLoader(dataset, task.batch_size, sampler=sampler, num_workers=task.threads)
