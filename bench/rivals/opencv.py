"""torch's DataLoader over files, with OpenCV: its decoder, its area filter, its Lab in float32."""

from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from .task import Batches, Files, Planes, Task, endless, is_mirrored, random_box

cv2.setNumThreads(0)  # its threads in each worker would compete


def batches(task: Task) -> Batches:
    return endless(Files(task, lambda path, task: decode(Path(path).read_bytes(), task)), task)


def decode(jpeg: bytes, task: Task) -> Planes:
    """Returns L and ab of a JPEG, cropped or squashed for the task."""
    picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB)
    if box := random_box(task, picture.shape[1], picture.shape[0]):
        picture = picture[box[1] : box[3], box[0] : box[2]]
    picture = cv2.resize(picture, (task.size, task.size), interpolation=cv2.INTER_AREA)
    return to_lab(cv2.flip(picture, 1) if is_mirrored(task) else picture)


def to_lab(rgb: NDArray[np.uint8]) -> Planes:
    """Returns L and ab of sRGB (S, S, 3)."""
    lab = torch.from_numpy(cv2.cvtColor(rgb.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)).permute(2, 0, 1)
    return lab[:1], lab[1:]
