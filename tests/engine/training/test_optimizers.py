"""Every optimizer trains as torch's does, skips what it must and resumes exactly."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from photochrom.engine.checkpoints.checkpoint import Checkpoint
from photochrom.engine.checkpoints.training_state import load_state, save_state
from photochrom.engine.configuration.config import ClassSpec
from photochrom.engine.distributed import make_training_accelerator
from photochrom.engine.training import checks
from photochrom.engine.training.run import train
from photochrom.engine.training.trainer import Trainer
from photochrom.losses import L2
from photochrom.models import VGGColorizer
from photochrom.pipelines import LabBatch
from safetensors.torch import load_file
from torch.optim import Optimizer

# A name for the test, the class and its settings.
OPTIMIZERS: dict[str, tuple[str, dict[str, Any]]] = {
    "Adam": ("Adam", {"amsgrad": True}),
    "AdamW": ("AdamW", {"weight_decay": 0.1}),
    "SGD": ("SGD", {}),
    "SGD with momentum": ("SGD", {"momentum": 0.9, "nesterov": True}),
    "SGD with dampening": ("torch.optim.SGD", {"momentum": 0.9, "dampening": 0.5}),
    "RMSprop": ("RMSprop", {"momentum": 0.9, "centered": True}),
    "Adagrad": ("Adagrad", {"lr_decay": 0.1}),
    "NAdam": ("NAdam", {}),
    "RAdam": ("RAdam", {}),
    "Adamax": ("Adamax", {}),
    "Adadelta": ("Adadelta", {}),
    "Adafactor": ("Adafactor", {}),
    "ASGD": ("ASGD", {}),
    "Rprop": ("Rprop", {}),
    "one's own": (f"{__name__}.Momentum", {}),
}
all_optimizers = pytest.mark.parametrize(("optim", "init_args"), OPTIMIZERS.values(), ids=OPTIMIZERS)


class Momentum(Optimizer):
    """An optimizer of one's own, with a number in the state of each weight, and one for all of them."""

    def __init__(self, params: Any, lr: float = 0.1, decay: float = 0.9) -> None:
        super().__init__(params, {"lr": lr, "decay": decay, "total": 0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            group["total"] += 1
            for weight in group["params"]:
                state = self.state[weight]
                state["count"] = state.get("count", 0) + 1
                state["mean"] = group["decay"] * state.get("mean", 0) + weight.grad / state["count"]
                weight -= group["lr"] / group["total"] * state["mean"]


@pytest.fixture
def make(configure, tmp_path: Path):
    """Returns a function that makes a small untrained network with its trainer."""

    def make(optim: str, init_args: dict[str, Any]) -> Trainer:
        config = configure(tmp_path / "unused", train__max_nonfinite_steps=5)
        config = replace(config, optim=ClassSpec(class_path=optim, init_args=init_args))
        torch.manual_seed(0)
        colorizer = VGGColorizer(**config.model.init_args)
        return Trainer(colorizer, L2(), config, make_training_accelerator(config.train))

    return make


def batch_of(step: int) -> LabBatch:
    generator = torch.Generator().manual_seed(step)
    L = 100 * torch.rand(2, 1, 16, 16, generator=generator)
    return LabBatch(L=L, ab=20 * torch.randn(2, 2, 16, 16, generator=generator), index=torch.arange(2))


def run(trainer: Trainer, *steps: int, spoiled: tuple[int, ...] = ()) -> Trainer:
    for step in steps:
        batch = batch_of(step)
        if step in spoiled:
            batch = LabBatch(L=batch.L, ab=batch.ab * float("nan"), index=batch.index)
        trainer.train_step(batch, step=step, lr=1e-3)
    return trainer


def assert_same(one: Trainer, other: Trainer) -> None:
    a, b = ({**trainer.colorizer.state_dict(), **trainer.state_dict()} for trainer in (one, other))
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(value, b[name]) if isinstance(value, torch.Tensor) else value == b[name], name


@all_optimizers
def test_it_trains_as_torch_does(make, optim: str, init_args: dict[str, Any]) -> None:
    trainer = make(optim, init_args)
    reference = VGGColorizer(width=0.0625).train()
    reference.load_state_dict(trainer.colorizer.state_dict())
    name = optim.rpartition(".")[2]
    # The other implementations differ by rounding, which small gradients enlarge.
    fused = {"fused": True} if name in ("Adam", "AdamW", "Adagrad", "SGD") and "dampening" not in init_args else {}
    cls = getattr(torch.optim, name, Momentum)
    theirs = cls(reference.parameters(), **{**init_args, "lr": 1e-3}, **fused)
    for step in range(3):
        run(trainer, step)
        theirs.zero_grad()
        L2()(reference(batch_of(step).L), batch_of(step)).total.backward()
        theirs.step()
    for ours, expected in zip(trainer.colorizer.parameters(), reference.parameters(), strict=True):
        assert torch.equal(ours, expected)


@all_optimizers
def test_a_skipped_step_leaves_no_trace(make, optim: str, init_args: dict[str, Any]) -> None:
    """Nor does the very first one, which makes the state."""
    skipped, without = (make(optim, init_args) for _ in range(2))
    assert_same(run(skipped, 0, 1, 2, 3, spoiled=(0, 2)), run(without, 1, 3))


@all_optimizers
def test_it_resumes_exactly(make, optim: str, init_args: dict[str, Any], tmp_path: Path) -> None:
    before, resumed, whole = (make(optim, init_args) for _ in range(3))
    save_state(run(before, 0, 1, 2).state_dict(), tmp_path / "state")
    resumed.colorizer.load_state_dict(before.colorizer.state_dict())
    resumed.load_state_dict(load_state(tmp_path / "state"))
    assert_same(run(resumed, 3, 4, 5), run(whole, *range(6)))


@all_optimizers
def test_a_scaled_step_that_overflows_leaves_no_trace(make, optim: str, init_args: dict[str, Any], monkeypatch) -> None:
    """As in fp16: the very first step overflows, and the scale falls from 2^127 to 2^7."""
    scaled, plain = (make(optim, init_args) for _ in range(2))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, backoff_factor=2.0**-120)
    monkeypatch.setattr(scaled._accelerator, "scaler", scaler)
    run(scaled, 0, 1, 2)
    monkeypatch.setattr(scaled._accelerator, "scaler", None)
    run(plain, 1, 2)
    for one, other in zip(scaled.colorizer.parameters(), plain.colorizer.parameters(), strict=True):
        assert torch.equal(one, other)
    assert scaler.get_scale() == 2**7


def test_its_state_has_the_names_of_the_weights(make) -> None:
    trainer = run(make("AdamW", {}), 0)
    state, weight = trainer.state_dict(), trainer.colorizer.get_parameter("block1.conv1_1.weight")
    assert state["optimizer/block1.conv1_1.weight/exp_avg_sq"].shape == weight.shape
    assert state["optimizer/block1.conv1_1.weight/step"] == 1


def test_the_settings_of_the_run_count_and_not_those_of_the_checkpoint(make) -> None:
    before = run(make("AdamW", {"lr": 1e-3, "betas": (0.5, 0.6)}), 0)
    after = make("AdamW", {"lr": 1e-3, "betas": (0.7, 0.8), "weight_decay": 0.5})
    after.load_state_dict(before.state_dict())
    (group,) = after.optimizer.param_groups
    assert (group["betas"], group["weight_decay"], group["fused"]) == ((0.7, 0.8), 0.5, True)


class Lists(Momentum):
    """Keeps what a checkpoint cannot hold."""

    def step(self, closure: None = None) -> None:
        super().step()
        for weight in self.param_groups[0]["params"]:
            self.state[weight]["history"] = [weight.detach().clone()]


def test_a_state_that_is_neither_tensors_nor_numbers_is_refused(make, tmp_path: Path) -> None:
    trainer = run(make(f"{__name__}.Lists", {}), 0)
    with pytest.raises(ValueError, match=r"conv1_1\.\w+/history is a list, and a checkpoint holds tensors, numbers"):
        save_state(trainer.state_dict(), tmp_path / "state")


class WithoutRate(Optimizer):
    def __init__(self, params: Any) -> None:
        super().__init__(params, {})


@pytest.mark.parametrize(
    ("optim", "init_args", "sentence"),
    [
        ("Muon", {}, r"optim=Muon: Muon only supports 2D parameters"),
        ("LBFGS", {}, r"optim=LBFGS cannot train here"),
        (f"{__name__}.WithoutRate", {}, r"optim.lr=None is not a positive number"),
        ("AdamW", {"momentum": 0.9}, r"AdamW cannot be made with \{'momentum': 0.9\}: got an unexpected keyword"),
        ("AdamW", {"eps": -1.0}, r"optim.eps=-1.0: Invalid epsilon value: -1.0"),
    ],
)
def test_what_cannot_train_is_refused(make, optim: str, init_args: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        make(optim, init_args)


def test_a_run_resumes_with_its_optimizer_and_no_other(configure, tmp_path: Path) -> None:
    settings = {"optim": "RMSprop", "optim__momentum": 0.9, "train__ema": 0.9}
    train(configure(tmp_path / "whole", train__steps=6, **settings))
    train(configure(tmp_path / "run", train__steps=3, **settings))
    folder = tmp_path / "run" / "checkpoints" / "step-00000003"
    with pytest.raises(ValueError, match=rf"{folder} has the state of optim=RMSprop, which optim=Adam cannot use: res"):
        train(configure(tmp_path / "run", train__steps=6))
    with pytest.raises(ValueError, match=r"of another RMSprop \(optim.momentum: 0.9 -> 0\), which this one cannot use"):
        train(configure(tmp_path / "run", train__steps=6, optim="RMSprop"))
    train(configure(tmp_path / "run", train__steps=6, **settings))
    resumed, whole = (load_file(tmp_path / name / "model.safetensors") for name in ("run", "whole"))
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())


@pytest.mark.parametrize(
    ("optim", "before", "now", "fits"),
    [
        ("SGD", {"momentum": 0.9}, {"momentum": 0.8, "nesterov": True, "weight_decay": 0.1}, True),
        ("SGD", {"momentum": 0.9}, {"momentum": 0.9, "dampening": 0.5}, True),
        ("SGD", {"momentum": 0.9, "nesterov": True}, {}, False),
        ("RAdam", {}, {"decoupled_weight_decay": True}, True),
        ("Adam", {}, {"amsgrad": True}, False),
        ("RMSprop", {"centered": True}, {}, False),
        (f"{__name__}.Momentum", {"decay": 0.5}, {"decay": 0.0}, True),
    ],
)
def test_only_settings_that_change_what_is_kept_are_refused(
    configure,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    optim: str,
    before: dict[str, Any],
    now: dict[str, Any],
    fits: bool,
) -> None:
    saved = {"optim": {"class_path": optim, "init_args": {"lr": 1e-3, **before}}}
    monkeypatch.setattr(checks, "read_metadata", lambda file: SimpleNamespace(config=saved))
    config = replace(configure(tmp_path), optim=ClassSpec(class_path=optim, init_args={"lr": 1e-4, **now}))
    checkpoint = Checkpoint(folder=tmp_path / "step-00000003", step=3, loader={}, totals={}, best=None)
    with nullcontext() if fits else pytest.raises(ValueError, match=rf"step-00000003 has the state of another {optim}"):
        checks.check_optimizer_fits(config, checkpoint)
