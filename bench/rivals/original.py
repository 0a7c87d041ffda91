"""The original project's recipe: torch's DataLoader over files, Pillow's bicubic filter, scikit-image in float64."""

import numpy as np
import torch
from PIL import Image
from skimage.color import rgb2lab

from .task import Batches, Files, Planes, Task, endless, is_mirrored, random_box


def batches(task: Task) -> Batches:
    return endless(Files(task, lambda path, task: to_lab(Image.open(path), task)), task)


def to_lab(picture: Image.Image, task: Task) -> Planes:
    """Returns L and ab of a picture, cropped or squashed for the task."""
    lab = torch.from_numpy(rgb2lab(np.asarray(cut(picture, task))).astype(np.float32)).permute(2, 0, 1)
    return lab[:1], lab[1:]


def cut(picture: Image.Image, task: Task) -> Image.Image:
    """Returns the picture, cropped or squashed for the task."""
    box = random_box(task, *picture.size)
    picture = picture.convert("RGB").resize((task.size, task.size), Image.Resampling.BICUBIC, box=box)
    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if is_mirrored(task) else picture
