"""The kernels of the compiled step, as Inductor schedules them for a GPU: what they must not become."""

import json
from pathlib import Path

import pytest
import torch
from photochrom.bench.command import main
from photochrom.bench.step.fake_cuda import replaced
from photochrom.bench.step.kernels import Kernel, trace_step
from photochrom.losses import L2, ColorLoss, RebalancedCrossEntropy
from photochrom.models import VGGColorizer
from photochrom.pipelines import LabBatch
from photochrom.pipelines.loading.synthetic_loader import random_lab

BATCH = 224


def l2_recipe() -> list[Kernel]:
    return trace(VGGColorizer(normalization="seed", upsampling="bicubic", dilation="native"), L2(resolution="input"))


def trace(colorizer: VGGColorizer, loss: ColorLoss, size: int = 256) -> list[Kernel]:
    L, ab = random_lab(1, size, seed=0)
    loss(colorizer(L), LabBatch(L=L, ab=ab, index=torch.arange(1)))  # makes the constants
    colorizer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return trace_step(
        colorizer, loss, batch_size=BATCH, size=size, dtype=torch.bfloat16, capability=9.0, multiprocessors=132
    )


def gigabytes(kernels: list[Kernel], *, convolutions: bool) -> float:
    return sum(kernel.num_bytes for kernel in kernels if (kernel.kind == "convolutions") == convolutions) / 1e9


@pytest.mark.skipif(not torch.__version__.startswith("2.13."), reason="another Inductor schedules other kernels")
def test_the_kernels_of_the_l2_recipe() -> None:
    """43.3 GB of convolutions, and 45.1 GB beside them. One test: a trace takes some 10 s."""
    kernels = l2_recipe()
    assert gigabytes(kernels, convolutions=True) < 43.4
    assert gigabytes(kernels, convolutions=False) < 45.3
    assert len(kernels) <= 252

    # The backward pass has no atomic additions: those of the upsampling were 16 for each pixel.
    assert not any("index_put" in name for kernel in kernels for name in kernel.operators)

    # 22 convolutions, all but the last, forward and backward: inputs, weights and outputs in bf16, once each.
    convolutions = [kernel for kernel in kernels if kernel.kind == "convolutions"]
    assert len(convolutions) == 2 * 22
    assert convolutions[0].num_bytes == 2 * (BATCH * 256 * 256 * (8 + 64) + 64 * 8 * 9)  # L is padded to 8 channels

    # No feature map changes its layout: such a copy has the operator of the convolution that asked for it.
    copies = [kernel for kernel in kernels if kernel.operators in (("convolution",), ("convolution_backward",))]
    assert [kernel for kernel in copies if kernel.kind != "convolutions" and kernel.num_bytes > 1e8] == []

    # In each of 22 layers, mask and bias gradient are one kernel: none only masks, and none only sums.
    backward = [kernel for kernel in kernels if kernel.kind.endswith("backward") and kernel.num_bytes > 1e8]
    masks = [kernel for kernel in backward if "where" in kernel.operators]
    assert len(masks) == 22
    assert all("sum" in kernel.operators for kernel in masks)
    sums = [kernel for kernel in backward if "sum" in kernel.operators]
    assert len(sums) == 22 + 7 + 1  # also those of BatchNorm, and the gradient of the last layer's weight


@pytest.mark.slow
def test_the_command_counts_for_a_card_and_bounds_its_throughput(tmp_path: Path) -> None:
    out = tmp_path / "trace.json"
    command = ["step", "--config", "l2", "--model.width", "0.25", "--data.size", "64", "--batch-sizes", "32"]
    assert main([*command, "--trace", "v100-n1-highmem-16", "--out", str(out)]) == 0
    results = json.loads(out.read_text())
    *kinds, everything = results["rows"]
    assert everything["precision"] == "fp16"  # a V100 has no bf16
    assert sum(row["number"] for row in kinds) == everything["number"]
    assert sum(row["GB"] for row in kinds) == pytest.approx(everything["GB"])
    seconds = everything["arithmetic(ms)"] / 1e3 + everything["beside_convolutions(GB)"] / 900
    assert everything["bound(img/s)"] == pytest.approx(32 / seconds)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--trace", "h20"], "--machine h20 is neither a .yaml file nor a known machine; did you mean h200?"),
        (["--trace", "cpu"], "--trace cpu: the machine's file has no device_memory(GB/s): name one with a GPU"),
        (["--trace", "h200", "--find-max-batch"], "--find-max-batch fills a GPU's memory, and --trace uses none"),
    ],
)
def test_what_cannot_be_traced(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises((ValueError, SystemExit)) as error:
        main(["step", "--config", "l2", *options])
    assert message in f"{error.value} {' '.join(capsys.readouterr().err.split())}"


@pytest.mark.slow
def test_dilated_blocks_as_plain_convolutions_add_no_copies() -> None:
    """The layers before and after them read and write in the other order; by a concatenation, 2.6 GB were copied."""
    network = VGGColorizer(normalization="seed", upsampling="bicubic", dilation="space_to_batch")
    kernels = trace(network, L2(resolution="input"))
    assert len(kernels) == len(l2_recipe())
    assert gigabytes(kernels, convolutions=False) < gigabytes(l2_recipe(), convolutions=False) + 0.1


@pytest.mark.slow
def test_a_loss_of_bins_has_constants_on_the_device() -> None:
    loss = RebalancedCrossEntropy([1 / 313] * 313)
    network = VGGColorizer(width=0.25, head="bins", dilation="native")
    kernels = trace(network, loss, size=64)
    assert any("logsumexp" in kernel.operators or "exp" in kernel.operators for kernel in kernels)


def test_another_torch_is_refused_in_a_sentence() -> None:
    has_gpu = torch.cuda.is_available()
    with (
        pytest.raises(ValueError, match=r"^--trace needs torch\.not_there, which torch .* does not have"),
        replaced({"torch.not_there": None}),
    ):
        pass
    assert torch.cuda.is_available() == has_gpu
