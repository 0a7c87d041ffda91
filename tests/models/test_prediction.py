from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from photochrom.models import ColorPrediction
from photochrom.models.prediction import Upsampling


def ramp(cells: int, input_size: tuple[int, int]) -> ColorPrediction:
    """A prediction whose a is the pixel row of each cell's centre, and whose b is the column."""
    centre = torch.arange(cells) * 4 + 1.5
    return ColorPrediction(
        output=torch.stack(torch.meshgrid(centre, centre, indexing="ij"))[None], input_size=input_size
    )


@pytest.mark.parametrize("size", [(40, 40), (37, 39), (38, 40)])
def test_cells_cover_their_pixels(size: tuple[int, int]) -> None:
    ab = ramp(10, size).ab()
    rows, columns = torch.meshgrid(*(torch.arange(side, dtype=torch.float32) for side in size), indexing="ij")
    inner = (slice(2, 36), slice(2, 36))  # beyond the outermost centres there is nothing to interpolate
    torch.testing.assert_close(ab[0, 0][inner], rows[inner])
    torch.testing.assert_close(ab[0, 1][inner], columns[inner])


def test_other_sizes_show_the_same_image() -> None:
    ab = ramp(10, (37, 39)).ab((74, 117))
    rows = (torch.arange(74) + 0.5) / 2 - 0.5
    columns = (torch.arange(117) + 0.5) / 3 - 0.5
    torch.testing.assert_close(ab[0, 0, 6:70, 50], rows[6:70])
    torch.testing.assert_close(ab[0, 1, 30, 9:108], columns[9:108])


def test_whole_cells_are_torch_s_interpolation() -> None:
    output = torch.randn(2, 2, 8, 6)
    prediction = ColorPrediction(output=output, input_size=(32, 24))
    assert torch.equal(prediction.ab(), F.interpolate(output, size=(32, 24), mode="bilinear"))
    bicubic = replace(prediction, upsampling="bicubic")
    assert torch.equal(bicubic.ab(), F.interpolate(output, size=(32, 24), mode="bicubic"))


def test_a_slice_holds_those_samples() -> None:
    prediction = ColorPrediction(output=torch.randn(4, 2, 8, 8), input_size=(31, 32))
    part = prediction[1:3]
    assert torch.equal(part.output, prediction.output[1:3])
    assert part.input_size == (31, 32)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("input_size", [(32, 24), (30, 21), (1, 5)])
@pytest.mark.parametrize("size", [None, (48, 50), (7, 9)])
def test_with_a_gradient_it_is_a_product_of_matrices(
    mode: Upsampling, input_size: tuple[int, int], size: tuple[int, int] | None
) -> None:
    """It equals torch's interpolation and its gradient, whose atomic additions a GPU makes in no fixed order."""
    shape = (2, 2, *(-(-side // 4) for side in input_size))
    output = 100 * torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = ColorPrediction(output=output, input_size=input_size, upsampling=mode).ab(size)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def gradient(prediction: ColorPrediction) -> torch.Tensor:
        return torch.autograd.grad((prediction.ab(size) * weights).sum(), prediction.output)[0]

    learnt = ColorPrediction(output=output.clone().requires_grad_(), input_size=input_size, upsampling=mode)
    torch.testing.assert_close(learnt.ab(size).detach(), expected, rtol=0, atol=1e-11)
    # Each output is linear in each cell, so differences of any width give the gradient of `interpolate`.
    cell = (1, 0, shape[2] // 2, shape[3] - 1)
    moved = output.clone()
    moved[cell] += 1
    change = ColorPrediction(output=moved, input_size=input_size, upsampling=mode).ab(size) - expected
    assert gradient(learnt)[cell].item() == pytest.approx((change * weights).sum().item(), abs=1e-9)
    single = ColorPrediction(output=output.float().requires_grad_(), input_size=input_size, upsampling=mode)
    torch.testing.assert_close(single.ab(size).detach().double(), expected, rtol=0, atol=1e-4)
