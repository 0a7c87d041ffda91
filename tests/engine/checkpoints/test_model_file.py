import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import photochrom
import pytest
import torch
from photochrom.engine.checkpoints.model_file import load_with_metadata, model_file, read_metadata, save_model
from photochrom.engine.configuration.config import ClassSpec, ModelSpec
from photochrom.engine.configuration.registry import build_loss, build_model, import_plugin, with_prior
from photochrom.engine.configuration.run_parser import read_settings, run_config
from photochrom.engine.training.initial_weights import find_initial_weights
from photochrom.losses import L2, ColorLoss, ElementwiseLoss, LossOutput, RebalancedCrossEntropy
from photochrom.models import Colorizer, ColorPrediction, VGGColorizer
from photochrom.pipelines import LabBatch
from safetensors import safe_open
from safetensors.torch import load_file, save_file


class MyColorizer(Colorizer):
    """A network of a user."""

    def __init__(self, bias: float) -> None:
        super().__init__()
        self.bias = torch.nn.Parameter(torch.tensor(bias))

    def forward(self, L: torch.Tensor) -> ColorPrediction:
        ab = torch.zeros(len(L), 2, -(-L.shape[2] // 4), -(-L.shape[3] // 4)) + self.bias
        return ColorPrediction(output=ab, input_size=(L.shape[2], L.shape[3]))


@pytest.mark.parametrize("where", ["", "model.safetensors", "checkpoints/step-00000020", "checkpoints/step-00000010"])
def test_a_trained_model_loads_from_wherever_it_is(trained: Path, where: str) -> None:
    model = photochrom.load(trained / where)
    assert isinstance(model.network, VGGColorizer)
    assert not model.training
    expected = load_file(model_file(trained / where))
    assert all(torch.equal(expected[name], tensor) for name, tensor in model.network.state_dict().items())


def test_a_run_without_final_weights_gives_its_newest_checkpoint(trained: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    (run / "model.safetensors").unlink()
    assert model_file(run) == run / "checkpoints" / "step-00000020" / "model.safetensors"


def test_the_header_holds_all_that_is_needed(trained: Path) -> None:
    with safe_open(trained / "model.safetensors", framework="pt") as file:
        header = file.metadata()
    metadata = json.loads(header["recipe"])
    assert header["photochrom"] == photochrom.__version__
    assert metadata["model"] == {"class_path": "VGGColorizer", "init_args": {"width": 0.0625}}
    assert metadata["loss"] == {"class_path": "L2", "init_args": {}}
    assert metadata["step"] == 20
    assert metadata["size"] == 32
    assert metadata["versions"]["torch"] == torch.__version__
    assert metadata["config"]["optim"]["init_args"]["lr"] == 1e-4


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no checkpoint at"):
        photochrom.load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"holds no model\.safetensors and no checkpoints"):
        photochrom.load(tmp_path)


def test_no_file_at_all(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.safetensors is not an intact model file"):
        read_metadata(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty: download it again"),
        (b"no weights", "is not an intact model file"),
        (b"\xff" * 100, "is not an intact model file"),
        (b"<html>", "is a web page or a server's error message, not weights"),
        (b"version https://git-lfs.github.com/spec/v1", "is a pointer of Git LFS, not weights: run 'git lfs pull'"),
    ],
)
def test_no_model_file(tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=sentence):
        photochrom.load(tmp_path)


def test_a_model_file_of_another_project(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(3)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="was not written by photochrom: its header holds no recipe"):
        photochrom.load(tmp_path)


def test_any_flipped_bit_is_noticed(trained: Path, tmp_path: Path) -> None:
    sound = (trained / "model.safetensors").read_bytes()
    metadata = sound.index(b"recipe")
    for place in (3, sound.index(b"0.0625", metadata), sound.index(b"0.0001", metadata), -1, -len(sound) // 2):
        data = bytearray(sound)
        data[place] ^= 1
        (tmp_path / "model.safetensors").write_bytes(data)
        with pytest.raises(ValueError, match=r"model\.safetensors (is|does not fit|was)"):
            photochrom.load(tmp_path)


def test_tensors_that_do_not_fit_are_named(trained: Path, tmp_path: Path) -> None:
    tensors = load_file(trained / "model.safetensors")
    tensors["block1.conv1_1.bias"] = torch.zeros(7)
    tensors["extra"] = tensors.pop("to_ab.bias")
    save_model(tensors, read_metadata(trained / "model.safetensors"), tmp_path / "model.safetensors")
    with pytest.raises(
        ValueError,
        match=r"to_ab\.bias \[2\] is missing; extra \[2\] is not part .*block1\.conv1_1\.bias is \[7\] there and \[4\]",
    ):
        photochrom.load(tmp_path)


def test_a_model_larger_than_its_file_is_refused_before_it_is_allocated(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = read_metadata(trained / "model.safetensors")
    wide = replace(metadata, model=ClassSpec(class_path="VGGColorizer", init_args={"width": 100}))  # 8 GB
    save_model(load_file(trained / "model.safetensors"), wide, tmp_path / "model.safetensors")
    devices: list[torch.device] = []
    build = VGGColorizer.reset_parameters
    monkeypatch.setattr(VGGColorizer, "reset_parameters", lambda model: devices.append(model.to_ab.weight.device))
    for load in (photochrom.load, lambda path: find_initial_weights(str(path))):
        with pytest.raises(ValueError, match=r"conv1_1\.weight is \[4, 1, 3, 3\] there and \[6400, 1, 3, 3\] here"):
            load(tmp_path / "model.safetensors")
    assert {device.type for device in devices} == {"meta"}
    monkeypatch.setattr(VGGColorizer, "reset_parameters", build)
    photochrom.load(trained)


class Measured(MyColorizer):
    """A network of a user that needs the values of its weights to be made."""

    def __init__(self, bias: float) -> None:
        super().__init__(bias)
        self.grey = self.bias.item()


def test_a_class_that_computes_with_its_weights_is_loaded(trained: Path, tmp_path: Path) -> None:
    metadata = replace(
        read_metadata(trained / "model.safetensors"),
        model=ClassSpec(class_path=f"{__name__}.Measured", init_args={"bias": 1.0}),
    )
    save_model({"bias": torch.tensor(2.0)}, metadata, tmp_path / "model.safetensors")
    assert photochrom.load(tmp_path).network.bias == 2


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_refused(trained: Path, tmp_path: Path, value: float) -> None:
    tensors = load_file(trained / "model.safetensors")
    tensors["to_ab.weight"][1, 2] = value
    save_model(tensors, read_metadata(trained / "model.safetensors"), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"to_ab\.weight and 0 more of its tensors have infinite or nan values"):
        photochrom.load(tmp_path)


def test_known_and_imported_classes_can_be_built() -> None:
    assert isinstance(build_model(ClassSpec(class_path="VGGColorizer", init_args={"width": 0.0625})), VGGColorizer)
    assert isinstance(
        build_model(ClassSpec(class_path=f"{__name__}.MyColorizer", init_args={"bias": 1.0})), MyColorizer
    )
    assert isinstance(build_loss(ClassSpec(class_path="L2")), L2)


class Sum(ColorLoss):
    """A loss of a user that sums up to three others."""

    def __init__(
        self, first: ElementwiseLoss, second: ElementwiseLoss | None = None, third: "L2 | None" = None
    ) -> None:
        super().__init__()
        self.parts = torch.nn.ModuleList(part for part in (first, second, third) if part is not None)

    def forward(self, prediction: ColorPrediction, batch: LabBatch) -> LossOutput:
        return LossOutput(total=sum(part(prediction, batch).total for part in self.parts))


def test_losses_that_wrap_losses_are_built_with_them() -> None:
    second = {"class_path": "RebalancedCrossEntropy", "init_args": {"k": 3}}
    spec = ClassSpec(
        class_path=f"{__name__}.Sum", init_args={"first": {"class_path": "L2"}, "second": second, "third": None}
    )
    resolved = with_prior(spec, [1.0] * 313)
    assert resolved.init_args["second"]["init_args"] == {"k": 3, "prior": [1.0] * 313}
    loss = build_loss(resolved)
    assert [type(part) for part in loss.parts] == [L2, RebalancedCrossEntropy]
    assert loss.parts[1].k == 3


def test_a_file_may_leave_a_wrapped_loss_out_and_name_known_ones_only(tmp_path: Path) -> None:
    required = {"out": tmp_path, "data.train": "shards"}
    for second in ("null", "L2", "antigravity.Loss"):
        (tmp_path / "run.yaml").write_text(
            f"loss: {{class_path: {__name__}.Sum, init_args: {{first: SmoothL1, second: {second}}}}}"
        )
        settings = {"model": "VGGColorizer", "optim": "Adam", **required, **read_settings(tmp_path / "run.yaml")}
        if second == "antigravity.Loss":
            with pytest.raises(ValueError, match=r"loss\.second=antigravity\.Loss is not a known ElementwiseLoss"):
                run_config(settings)
        else:
            assert run_config(settings).loss.init_args["first"]["class_path"] == "SmoothL1"
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize("class_path", ["Nothing", "os.system", "photochrom.losses.L2", "antigravity.Model"])
def test_a_file_cannot_name_anything_else(class_path: str) -> None:
    with pytest.raises(ValueError, match=f"{class_path} is not a known Colorizer.* Known are VGGColorizer, your own"):
        build_model(ClassSpec(class_path=class_path))
    assert "antigravity" not in sys.modules


def test_arguments_that_a_class_does_not_take(trained: Path) -> None:
    with pytest.raises(ValueError, match=r"VGGColorizer cannot be made with \{'depth': 3\}: .*'depth'"):
        build_model(ClassSpec(class_path="VGGColorizer", init_args={"depth": 3}))


def test_a_plugin_is_imported_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_networks.py").write_text(
        "from photochrom.models import VGGColorizer\nclass Mine(VGGColorizer):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    spec = ClassSpec(class_path="my_networks.Mine", init_args={"width": 0.0625})
    with pytest.raises(ValueError, match="once their module is imported"):
        build_model(spec)
    import_plugin("my_networks")
    assert type(build_model(spec)).__name__ == "Mine"
    with pytest.raises(ValueError, match="--plugin no_such_module cannot be imported"):
        import_plugin("no_such_module")


def test_a_model_of_one_s_own_is_saved_and_loaded(configure, tmp_path: Path) -> None:
    from photochrom.engine.training.run import train

    own = ModelSpec(class_path=f"{__name__}.MyColorizer", init_args={"bias": 0.5})
    train(configure(tmp_path / "run", model=own, train__steps=2))
    model, metadata = load_with_metadata(tmp_path / "run")
    assert isinstance(model, MyColorizer)
    assert metadata.model == ClassSpec(class_path=own.class_path, init_args=own.init_args)
    assert model.bias.item() != 0.5
