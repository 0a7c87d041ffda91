"""The buffers of devices, tested on the CPU: a GPU does the same arithmetic with the same bytes."""

import numpy as np
import pytest
import torch
from photochrom.pipelines.imaging.color import lab_converter
from photochrom.pipelines.loading.batch_buffer import ArrayPool, CpuBatchBuffer, DeviceBatchBuffer, DeviceImageBuffer
from photochrom.pipelines.loading.synthetic_loader import random_lab
from photochrom.pipelines.shards import Store
from skimage.data import astronaut

CPU = torch.device("cpu")
WINDOWS = [(0, 0, 512, 512), (10, 20, 64, 64), (100, 3, 200, 301), (7, 90, 31, 50)]


@pytest.mark.parametrize("store", ["jpeg", "lab"])
@pytest.mark.parametrize("kind", ["host images", "device images"])
def test_all_buffers_return_the_same(store: Store, kind: str) -> None:
    image = astronaut() if store == "jpeg" else np.ascontiguousarray(astronaut().transpose(2, 0, 1))
    reference = CpuBatchBuffer(8, 64, store, ArrayPool())
    if kind == "host images":
        other, other_image = DeviceBatchBuffer(8, 64, store, CPU, lab_converter(store)), image
    else:
        other, other_image = DeviceImageBuffer(8, 64, store, lab_converter(store)), torch.from_numpy(image)
    for i in range(8):
        window, flip = WINDOWS[i // 2], i % 2 == 1
        reference.write(i, image, window, flip)
        other.write(i, other_image, window, flip)
    (L, ab), (other_L, other_ab) = reference.finish(), other.finish()
    # Resized images differ by a rounding of some bytes; images of the right size do not.
    tolerance = 0.1 if kind == "device images" else 2e-3
    assert (L - other_L).abs().mean() < tolerance
    assert (ab - other_ab).abs().mean() < tolerance
    assert (L - other_L)[2:4].abs().max() < 2e-3
    assert torch.allclose(L[1].flip(2), L[0])


def test_memory_is_reused_once_no_tensor_shares_it() -> None:
    pool = ArrayPool()
    one = CpuBatchBuffer(2, 24, "jpeg", pool).finish()
    address = one[0].data_ptr()
    assert CpuBatchBuffer(2, 24, "jpeg", pool).finish()[0].data_ptr() != address
    part = one[0][1:]
    del one
    assert CpuBatchBuffer(2, 24, "jpeg", pool).finish()[0].data_ptr() != address
    del part
    assert CpuBatchBuffer(2, 24, "jpeg", pool).finish()[0].data_ptr() == address


@pytest.mark.parametrize("store", ["jpeg", "lab"])
@pytest.mark.slow
def test_lab_is_the_same_when_it_is_compiled(store: Store, device: torch.device) -> None:
    shape = (3, 16, 16, 3) if store == "jpeg" else (3, 3, 16, 16)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8).to(device)
    for part in (pixels, pixels[:1]):
        with torch.autocast(device.type, dtype=torch.bfloat16):
            (L, ab), (compiled_L, compiled_ab) = (lab_converter(store, compiled=c)(part) for c in (False, True))
        assert compiled_L.dtype == compiled_ab.dtype == torch.float32
        torch.testing.assert_close(compiled_L, L, rtol=0, atol=1e-3)
        torch.testing.assert_close(compiled_ab, ab, rtol=0, atol=1e-3)


@pytest.mark.parametrize("store", ["jpeg", "lab"])
def test_synthetic_batches_have_the_strides_of_real_ones(store: Store) -> None:
    """On a GPU, too: torch's device without memory stands for it."""
    convert = lab_converter(store)
    real = {
        "cpu": CpuBatchBuffer(2, 24, store, ArrayPool()).finish(),
        "meta": DeviceBatchBuffer(2, 24, store, CPU, convert).finish(),
    }
    for device, channels in real.items():
        synthetic = random_lab(2, 24, seed=0, device=torch.device(device), store=store)
        assert [x.stride() for x in synthetic] == [x.stride() for x in channels]
