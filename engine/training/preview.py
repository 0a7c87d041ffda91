"""Pictures of predictions beside the ground truth."""

# Shapes: B samples, S pixels a side.

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...pipelines import LabBatch, lab_to_rgb

_GAP = 4  # pixels between photographs


def triptychs(batch: LabBatch, ab: Tensor) -> NDArray[np.uint8]:
    """Returns grey, prediction and truth of every photograph, uint8 (3, B, S, S, 3); `ab` (B, 2, S, S) is predicted."""
    versions = [torch.zeros_like(ab), ab, batch.ab]
    rgb = torch.stack([lab_to_rgb(batch.L, version) for version in versions])
    pixels: NDArray[np.uint8] = (rgb * 255).round().byte().permute(0, 1, 3, 4, 2).cpu().numpy()
    return pixels


def contact_sheet(versions: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Returns one picture (H, W, 3) of triptychs (3, B, S, S, 3): one row per photograph, white gaps between."""
    padded = np.pad(versions, ((0, 0), (0, 0), (0, _GAP), (0, _GAP), (0, 0)), constant_values=255)
    rows = [np.concatenate(list(row), axis=1) for row in padded.swapaxes(0, 1)]
    return np.concatenate(rows, axis=0)[:-_GAP, :-_GAP]
