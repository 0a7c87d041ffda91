"""The canvases of devices, tried on the CPU: what a GPU does with the same bytes is the same arithmetic."""

import numpy as np
import pytest
import torch
from photochrom.pipelines import canvas
from photochrom.pipelines.canvas import Buffers, PicturesOnDevice, blank
from photochrom.pipelines.shards import Store
from skimage.data import astronaut

CPU = torch.device("cpu")
WINDOWS = [(0, 0, 512, 512), (10, 20, 64, 64), (100, 3, 200, 301), (7, 90, 31, 50)]


@pytest.mark.parametrize("store", ["jpeg", "lab"])
@pytest.mark.parametrize("kind", ["bytes that travel", "pictures that are there"])
def test_every_canvas_shows_the_same(store: Store, kind: str) -> None:
    picture = astronaut() if store == "jpeg" else np.ascontiguousarray(astronaut().transpose(2, 0, 1))
    reference = blank(8, 64, store, CPU, Buffers())
    if kind == "bytes that travel":
        other, put = canvas._DeviceCanvas(8, 64, store, CPU), picture
    else:
        other, put = PicturesOnDevice(8, 64, store), torch.from_numpy(picture)
    for place in range(8):
        window, mirrored = WINDOWS[place // 2], place % 2 == 1
        reference.put(place, picture, window, mirrored)
        other.put(place, put, window, mirrored)
    (L, ab), (other_L, other_ab) = reference.lab(), other.lab()
    # Resized pictures may differ by a rounding of bytes here and there; others not at all.
    tolerance = 0.1 if kind == "pictures that are there" else 2e-3
    assert (L - other_L).abs().mean() < tolerance
    assert (ab - other_ab).abs().mean() < tolerance
    assert (L - other_L)[2:4].abs().max() < 2e-3
    assert torch.allclose(L[1].flip(2), L[0])


def test_buffers_are_used_again_when_nobody_holds_them() -> None:
    buffers = Buffers()
    one = blank(2, 24, "jpeg", CPU, buffers).lab()
    where = one[0].data_ptr()
    assert blank(2, 24, "jpeg", CPU, buffers).lab()[0].data_ptr() != where
    part = one[0][1:]
    del one
    assert blank(2, 24, "jpeg", CPU, buffers).lab()[0].data_ptr() != where
    del part
    assert blank(2, 24, "jpeg", CPU, buffers).lab()[0].data_ptr() == where
