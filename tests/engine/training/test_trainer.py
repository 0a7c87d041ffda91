"""Settings of the training step: each changes only what it is there to change."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from photochrom.engine import distributed
from photochrom.engine.checkpoints.model_file import ModelMetadata
from photochrom.engine.configuration.config import CUDA_GRAPH_MODES, CheckpointConfig, ClassSpec, TrainConfig
from photochrom.engine.distributed import resolve_compile, resolve_precision
from photochrom.engine.inference import load
from photochrom.engine.training.async_checkpoint import AsyncCheckpointer
from photochrom.engine.training.checks import check_cuda_graphs
from photochrom.engine.training.flops import flops_per_image, published_peak
from photochrom.engine.training.run import train
from photochrom.engine.training.trainer import Trainer
from photochrom.losses import L2
from photochrom.models import VGGColorizer
from photochrom.pipelines import DaliLoader, LabBatch, ShardSet
from safetensors.torch import load_file

CPU = torch.device("cpu")


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model.safetensors")


def lines_of(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def losses(run: Path) -> list[float]:
    return [line["train/loss"] for line in lines_of(run) if "train/loss" in line]


@pytest.mark.parametrize(
    "settings",
    [
        {"train__memory_format": "channels_last"},
        {"train__activation_checkpointing": True},
        {"model.dilation": "space_to_batch"},
        {"train__ema": 0.9},
        {"train__max_nonfinite_steps": 3},
        {"train__max_grad_norm": 1e9},
    ],
    ids=str,
)
def test_it_learns_the_same(configure, trained: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    config = configure(tmp_path / "run", **{k: v for k, v in settings.items() if "__" in k})
    if "model.dilation" in settings:
        config.model.init_args["dilation"] = settings["model.dilation"]
    train(config)
    assert losses(tmp_path / "run") == pytest.approx(losses(trained), rel=5e-3)


def make_trainer(configure, tmp_path: Path, dilation: str = "native", **settings: Any) -> tuple[Trainer, LabBatch]:
    """A small untrained network and a batch."""
    config = configure(tmp_path / "unused", **settings)
    config.model.init_args["dilation"] = dilation
    torch.manual_seed(0)
    colorizer = VGGColorizer(**config.model.init_args)
    batch = LabBatch(L=100 * torch.rand(4, 1, 32, 32), ab=20 * torch.randn(4, 2, 32, 32), index=torch.arange(4))
    return Trainer(colorizer, L2(), config, distributed.make_training_accelerator(config.train)), batch


def test_adam_is_that_of_the_formula(configure, tmp_path: Path) -> None:
    """One step in float64, by hand: Kingma and Ba (2015), with gradients shortened as Pascanu et al. (2013)."""
    trainer, batch = make_trainer(configure, tmp_path, train__max_grad_norm=1.0, optim__lr=1e-3)
    reference = VGGColorizer(width=0.0625).double().train()
    reference.load_state_dict(trainer.colorizer.state_dict())
    double = LabBatch(L=batch.L.double(), ab=batch.ab.double(), index=batch.index)
    L2()(reference(double.L), double).total.backward()
    norm = math.sqrt(sum(float(parameter.grad.square().sum()) for parameter in reference.parameters()))
    means, flags = trainer.train_step(batch, step=0, lr=1e-3)
    assert float(means["grad_norm"]) == pytest.approx(norm, rel=1e-3)
    assert norm > 1
    assert flags.tolist() == [0, 0, 0]
    for theirs, ours in zip(reference.parameters(), trainer.colorizer.parameters(), strict=True):
        gradient = theirs.grad / norm  # whose length Adam's first step does not show, but its moments do
        expected = theirs - 1e-3 * gradient / (gradient.abs() + 1e-8)
        large = gradient.abs() > 1e-6  # where rounding cannot turn the direction
        torch.testing.assert_close(ours.double()[large], expected[large], rtol=0, atol=1e-5)
        moment = trainer.optimizer.state[ours]["exp_avg"].double()
        torch.testing.assert_close(moment, 0.1 * gradient, rtol=1e-2, atol=1e-5)


def test_the_average_is_that_of_the_formula(configure, tmp_path: Path) -> None:
    trainer, batch = make_trainer(configure, tmp_path, train__ema=0.5)
    assert trainer.ema is not None
    expected = [parameter.detach().clone() for parameter in trainer.colorizer.parameters()]
    for step in range(8):
        trainer.train_step(batch, step=step, lr=1e-3)
        decay = min(0.5, (1 + step) / (10 + step))
        pairs = zip(expected, trainer.colorizer.parameters(), strict=True)
        expected = [decay * mean + (1 - decay) * now.detach() for mean, now in pairs]
    for mean, ours in zip(expected, trainer.eval_model.parameters(), strict=True):
        torch.testing.assert_close(ours, mean, rtol=1e-5, atol=1e-7)
    for theirs, ours in zip(trainer.colorizer.buffers(), trainer.eval_model.buffers(), strict=True):
        assert torch.equal(theirs, ours)


def test_the_average_is_saved_as_the_model_and_resumed_with_the_weights(
    configure, trained: Path, tmp_path: Path
) -> None:
    settings = {"train__ema": 0.9, "data__val": configure(tmp_path).data.train}
    train(configure(tmp_path / "unbroken", **settings))
    train(configure(tmp_path / "run", train__steps=7, **settings))
    train(configure(tmp_path / "run", **settings))
    a, b, usual = (weights(run) for run in (tmp_path / "unbroken", tmp_path / "run", trained))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not all(torch.equal(a[name], usual[name]) for name in a)
    last = [line["val/rmse_ab"] for line in lines_of(tmp_path / "run") if "val/rmse_ab" in line][-1]
    assert last != [line["val/rmse_ab"] for line in lines_of(trained) if "val/rmse_ab" in line][-1]
    train(configure(tmp_path / "run", train__steps=25))  # without: it goes on with the weights themselves
    train(configure(tmp_path / "other", train__steps=25))
    assert losses(tmp_path / "run")[20:] == pytest.approx(losses(tmp_path / "other")[20:], rel=5e-3)


def test_a_run_resumes_in_another_memory_format(configure, trained: Path, tmp_path: Path) -> None:
    train(configure(tmp_path / "run", train__steps=10, train__memory_format="contiguous"))
    train(configure(tmp_path / "run", train__memory_format="channels_last"))
    assert losses(tmp_path / "run") == pytest.approx(losses(trained), rel=5e-3)
    assert all(tensor.is_contiguous() for tensor in weights(tmp_path / "run").values())


def test_a_run_resumes_with_another_dilation(configure, trained: Path, tmp_path: Path) -> None:
    """It changes how the network is computed, not what."""
    train(configure(tmp_path / "run", train__steps=10))
    config = configure(tmp_path / "run")
    config.model.init_args["dilation"] = "space_to_batch"
    train(config)
    assert losses(tmp_path / "run") == pytest.approx(losses(trained), rel=5e-3)
    load(tmp_path / "run")


def test_moments_lie_as_the_weights_do(configure, tmp_path: Path) -> None:
    """Fused kernels on GPUs need them in the same memory format."""
    before, batch = make_trainer(configure, tmp_path, train__memory_format="contiguous")
    before.train_step(batch, step=0, lr=1e-3)
    after, _ = make_trainer(configure, tmp_path, train__memory_format="channels_last")
    after.load_state_dict(before.state_dict())
    for one, other in zip(before.colorizer.parameters(), after.colorizer.parameters(), strict=True):
        moment = after.optimizer.state[other]["exp_avg_sq"]
        assert moment.stride() == other.stride()
        assert torch.equal(moment, before.optimizer.state[one]["exp_avg_sq"])


def test_memory_formats_are_what_they_say(configure, tmp_path: Path) -> None:
    cases = [("auto", "fp32", False), ("auto", "bf16", True), ("channels_last", "fp32", True)]
    for memory_format, precision, strided in [*cases, ("contiguous", "bf16", False)]:
        trainer, _ = make_trainer(configure, tmp_path, train__memory_format=memory_format, train__precision=precision)
        weight = trainer.colorizer.block2.conv2_1.weight
        assert weight.is_contiguous(memory_format=torch.channels_last) == strided
        assert weight.is_contiguous() != strided


@pytest.mark.slow
def test_a_compiled_network_learns_the_same(configure, tmp_path: Path) -> None:
    plain, batch = make_trainer(configure, tmp_path)
    compiled, _ = make_trainer(configure, tmp_path, train__compile="default")
    for step in range(3):
        means = [float(one.train_step(batch, step=step, lr=1e-4)[0]["loss"]) for one in (plain, compiled)]
        assert means[1] == pytest.approx(means[0], rel=1e-4)
    assert compiled.colorizer.state_dict().keys() == plain.colorizer.state_dict().keys()


@pytest.mark.parametrize(
    ("has_bf16", "expected"),
    [(True, "bf16"), (False, "fp32")],
)
def test_a_cpu_takes_bf16_where_it_has_it(monkeypatch: pytest.MonkeyPatch, has_bf16: bool, expected: str) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert resolve_precision("auto", "cpu") == expected
    assert resolve_precision("fp32", "cpu") == "fp32"


def test_compilation_is_for_gpus_with_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda")
    monkeypatch.setattr(distributed, "has_triton", lambda: True)
    monkeypatch.setattr(distributed.shutil, "which", lambda name: name == "gcc")
    assert resolve_compile(TrainConfig(), CPU) == "off"
    assert resolve_compile(TrainConfig(), gpu) == "default"
    assert resolve_compile(TrainConfig(activation_checkpointing=True), gpu) == "off"
    assert resolve_compile(TrainConfig(compile="reduce-overhead"), CPU) == "reduce-overhead"
    monkeypatch.setattr(distributed.shutil, "which", lambda name: None)
    assert resolve_compile(TrainConfig(), gpu) == "off"
    monkeypatch.setattr(distributed.shutil, "which", lambda name: name)
    monkeypatch.setattr(distributed, "has_triton", lambda: False)
    assert resolve_compile(TrainConfig(), gpu) == "off"


def test_the_work_of_a_photograph_is_that_of_the_paper() -> None:
    """82.9 GFLOP forward and twice that backward, without the gradient of the first layer's input."""
    assert flops_per_image(VGGColorizer(), 64, CPU) * 16 == pytest.approx(248.7e9, rel=2e-3)


@pytest.mark.parametrize(
    ("name", "half", "single"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12, 494e12),
        ("NVIDIA H200", 989e12, 494e12),
        ("NVIDIA H100 PCIe", 756e12, 378e12),
        ("NVIDIA A100-SXM4-40GB", 312e12, 156e12),
        ("Tesla V100-SXM2-16GB", 125e12, 15.7e12),
        ("Tesla V100-PCIE-16GB", 112e12, 14e12),
        ("Radeon", None, None),
    ],
)
def test_peaks_are_known_by_name(monkeypatch: pytest.MonkeyPatch, name: str, half: float, single: float) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert published_peak(torch.device("cuda"), "bf16") == half
    assert published_peak(torch.device("cuda"), "no") == single
    assert published_peak(CPU, "no") is None


def test_the_share_of_the_peak_is_logged(configure, tmp_path: Path) -> None:
    train(configure(tmp_path / "run", train__steps=2, log__peak_tflops=0.1))
    flops = flops_per_image(VGGColorizer(width=0.0625), 32, CPU)
    for line in lines_of(tmp_path / "run"):
        assert line["compute/mfu(%)"] == pytest.approx(100 * flops * line["throughput(img/s)"] / 1e11)


def test_a_scaled_learning_rate_is_printed(configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(configure(tmp_path / "run", train__steps=2, schedule__lr_scaling="linear", schedule__reference_batch_size=2))
    assert "learning rate 0.0001 x 2 = 0.0002: batches of 4 instead of 2, linear" in capsys.readouterr().err
    assert [line["optim/lr"] for line in lines_of(tmp_path / "run")] == [2e-4, 2e-4]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"train__sync_batchnorm": True}, r"train.sync_batchnorm=true needs GPUs"),
        (
            {"train__grad_compression": "bf16"},
            r"train.grad_compression=bf16 needs GPUs, where NCCL reduces it: use fp16 or none",
        ),
        ({"log__peak_tflops": 0.0}, r"log.peak_tflops=0.0 is not a positive number"),
        ({"train__ema": 1.0}, r"train.ema=1.0 is not between 0 and 1"),
        ({"train__max_nonfinite_steps": -1}, r"train.max_nonfinite_steps=-1 is negative"),
        (
            {"train__activation_checkpointing": True, "train__compile": "default"},
            r"train.activation_checkpointing=true has no effect with train.compile=default",
        ),
        (
            {"train__compile": "reduce-overhead", "train__grad_accum_steps": 2},
            r"train.compile=reduce-overhead gives wrong gradients with train.grad_accum_steps=2",
        ),
        ({"train__timeout": 0}, r"train.timeout=0 is not a positive number"),
    ],
)
def test_what_cannot_be_is_refused(configure, tmp_path: Path, settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        train(configure(tmp_path / "run", **settings))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("processes", "launchers", "own", "expected"),
    [
        (1, 8, 8, 8),
        (4, 16, 16, 4),
        (4, 16, 8, 4),  # bound to the half that is near the GPU, with another one
        (4, 16, 4, 4),  # each bound to cores of its own
        (4, 16, 2, 2),
        (8, 4, 4, 1),
    ],
)
def test_cores_are_shared_out(
    monkeypatch: pytest.MonkeyPatch, processes: int, launchers: int, own: int, expected: int
) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    monkeypatch.setattr(distributed.os, "sched_getaffinity", lambda pid: set(range(launchers if pid else own)))
    assert distributed.threads_per_process() == expected


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("optim", ["Adam", "AdamW", "SGD", "Adagrad"])
def test_a_step_does_not_wait_for_the_gpu(configure, tmp_path: Path, precision: str, optim: str) -> None:
    settings = {"optim": optim, "train__device": "cuda", "train__precision": precision, "train__compile": "off"}
    trainer, batch = make_trainer(configure, tmp_path, **settings, train__max_nonfinite_steps=1, train__ema=0.9)
    batch = LabBatch(L=batch.L.cuda(), ab=batch.ab.cuda(), index=batch.index)
    for step in range(3):
        trainer.train_step(batch, step=step, lr=1e-4)
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer.train_step(batch, step=3, lr=1e-4)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("mode", CUDA_GRAPH_MODES)
def test_dali_on_a_gpu_is_refused_beside_cuda_graphs(configure, shards: ShardSet, tmp_path: Path, mode: str) -> None:
    loader = DaliLoader(shards, batch_size=2, size=32, train=True)
    check_cuda_graphs(configure(tmp_path, train__compile=mode), loader)  # on the CPU there are no CUDA graphs
    loader.device = torch.device("cuda")
    check_cuda_graphs(configure(tmp_path, train__compile="default"), loader)
    with pytest.raises(ValueError, match=f"^train.compile={mode} captures .* --loader.backend torch$"):
        check_cuda_graphs(configure(tmp_path, train__compile=mode), loader)


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
@pytest.mark.parametrize("dilation", ["native", "space_to_batch", "auto"])
def test_it_learns_on_a_gpu_what_it_learns_on_a_cpu(configure, tmp_path: Path, mode: str, dilation: str) -> None:
    reference, batch = make_trainer(configure, tmp_path)
    config = {"train__device": "cuda", "train__precision": "fp32", "train__compile": mode}
    trainer, _ = make_trainer(configure, tmp_path, dilation=dilation, **config)
    there = LabBatch(L=batch.L.cuda(), ab=batch.ab.cuda(), index=batch.index)
    for step in range(5):
        ours = trainer.train_step(there, step=step, lr=1e-4)[0]["loss"]
        assert float(ours) == pytest.approx(float(reference.train_step(batch, step=step, lr=1e-4)[0]["loss"]), rel=0.02)


def test_checkpoints_are_of_the_moment_although_training_resumes(configure, tmp_path: Path, device) -> None:
    settings = {"train__device": device.type, "train__precision": "fp32", "train__compile": "off"}
    trainer, batch = make_trainer(configure, tmp_path, **settings)
    there = LabBatch(L=batch.L.to(device), ab=batch.ab.to(device), index=batch.index)
    trainer.train_step(there, step=0, lr=1e-3)
    expected = {name: tensor.cpu().clone() for name, tensor in trainer.colorizer.state_dict().items()}
    checkpointer = AsyncCheckpointer(tmp_path, CheckpointConfig(), print)
    spec = ClassSpec(class_path="VGGColorizer", init_args={"width": 0.0625})
    metadata = ModelMetadata(model=spec, loss=spec, size=32, step=1, data="", config={}, versions={})
    checkpointer.save(trainer, metadata, loader={}, totals={})
    for step in range(1, 20):
        trainer.train_step(there, step=step, lr=1e-3)
    checkpointer.wait(needed=True)
    saved = load_file(tmp_path / "checkpoints" / "step-00000001" / "model.safetensors")
    assert all(torch.equal(saved[name], tensor) for name, tensor in expected.items())
