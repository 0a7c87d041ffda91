from pathlib import Path

import pytest
import yaml
from photochrom.engine.cli import main
from photochrom.engine.commands.train import parse
from photochrom.engine.configuration.config import ClassSpec, ModelSpec, to_plain_dict

BASE = ["--out", "run", "--data.train", "shards"]


def failing_train(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Returns the one line that bad usage of `photochrom train` prints."""
    with pytest.raises(SystemExit) as exit_:
        main(["train", *BASE, *argv])
    assert exit_.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert len(output.err.splitlines()) == 1, output.err
    return output.err.removeprefix("photochrom train: ")


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--train.stpes", "3"], "unknown option --train.stpes; did you mean --train.steps?"),
        (["--model.wdth", "1"], "unknown setting model.wdth; did you mean model.width?"),
        (["--loss.resoluton", "input"], "unknown setting loss.resoluton; did you mean loss.resolution?"),
        (["--zzz", "3"], "unknown option --zzz"),
        (["--train", "other.yaml"], "unknown option --train"),
        (["--train.steps", "abc"], "train.steps=abc: it should be a valid integer"),
        (["--train.batch_size", "2.5"], "train.batch_size=2.5: it should be a valid integer"),
        (["--train.batch_size", "null"], "train.batch_size=null: it should be a valid integer"),
        (["--data.scale", "0.5"], "data.scale=0.5: it should be a valid tuple"),
        (["--data.scale", "[0.5"], "data.scale=[0.5 cannot be read as YAML: while parsing"),
        (["--data.flip", "maybe"], "data.flip=maybe: it should be a valid boolean"),
        (["--optim.lr", "fast"], "optim.lr=fast: it should be a valid number"),
        (["--data.scale", "[yes, 1]"], "data.scale=[True, 1]: it should be a number, not true or false"),
        (["--data.crop", "oval"], "data.crop=oval: it should be 'random_resized', 'random', 'center' or 'squash'"),
        (["--train.precision", "fp8"], "train.precision=fp8: it should be 'auto', 'bf16', 'fp16' or 'fp32'"),
        (["--model", "VGGColoriser"], "model=VGGColoriser is not a known Colorizer; did you mean VGGColorizer? Known "),
        (["--loss", "torch.nn.L1Loss"], "loss=torch.nn.L1Loss is not a known ColorLoss. Known are L2, SmoothL1, Rebal"),
        (["--loss", "no_such_module.Loss"], "loss=no_such_module.Loss cannot be imported: No module named"),
        (
            ["--config", "l22"],
            "--config l22 is neither a file nor a recipe; did you mean l2? Known are demo, fine_tune, focal_ce, focal",
        ),
        (
            ["--config", "zzz"],
            "--config zzz is neither a file nor a recipe. Known are demo, fine_tune, focal_ce, focal_l2, l2, rebala",
        ),
        (["--plugin"], "argument --plugin: expected one argument"),
        (["--plugin", "no_such_module"], "--plugin no_such_module cannot be imported: No module named"),
        (["--loss.help", "L3"], "L3 is not a known ColorLoss; did you mean L2?"),
        (["extra"], "extra is one argument too many"),
        (["--data.size", "100"], "data.size=100 is not a multiple of 8 that is at least 16: try 96"),
        (["--data.size", "8"], "data.size=8 is not a multiple of 8 that is at least 16: try 16"),
        (["--data.scale", "[0, 1]"], "data.scale=[0.0, 1.0] is not a range within (0, 1]"),
        (["--train.batch_size", "0"], "train.batch_size=0 is not a positive number"),
        (["--train.steps", "-1"], "train.steps=-1 is not a positive number"),
        (["--train.seed", "-1"], "train.seed=-1 is negative"),
        (["--loss.resolution", "half"], "loss.resolution=half: it should be 'output' or 'input'"),
        (["--loss", "RebalancedCrossEntropy", "--loss.k", "few"], "loss.k=few: it should be a valid integer"),
        (["--loss", "Focal"], "loss.base must be given"),
        (["--loss", "Focal", "--loss.base.k", "3"], "loss.base must be given"),
        (["--loss", "Focal", "--loss.base", "L3"], "loss.base=L3 is not a known ElementwiseLoss; did you mean L2?"),
        (
            ["--loss", "Focal", "--loss.base", "L2", "--loss.base.resoluton", "input"],
            "unknown setting loss.base.resoluton; did you mean loss.base.resolution?",
        ),
        (
            ["--loss", "Focal", "--loss.base", "RebalancedCrossEntropy", "--loss.base.target", "dot"],
            "loss.base.target=dot: it should be 'mean' or 'point'",
        ),
        (["--model.head", "bin"], "model.head=bin: it should be 'ab' or 'bins'"),
        (["--schedule.milestones", "[[5, 1e-5], [5, 1e-6]]"], "schedule.milestones=[[5, 1e-05], [5, 1e-06]] must be i"),
        (
            ["--schedule.milestones", "[[5, 0]]"],
            "schedule.milestones=[[5, 0.0]] must be increasing steps with positive",
        ),
        (["--schedule.milestones", "[[5, 1e-5]]"], "schedule.type=constant takes no schedule.milestones: omit them, o"),
        (["--schedule.type", "step"], "schedule.type=step needs schedule.milestones, such as [[200000, 1e-5]]"),
        (["--optim.warmup_steps", "5"], "unknown setting optim.warmup_steps; did you mean schedule.warmup_steps?"),
        (["--optim.max_grad_norm", "5"], "unknown setting optim.max_grad_norm; did you mean train.max_grad_norm?"),
        (["--optim.lr", "0"], "optim.lr=0.0 is not a positive number"),
        (["--optim.lr", "-1"], "optim.lr=-1.0: Invalid learning rate: -1.0"),
        (["--optim.betas", "[1, 0.9]"], "optim.betas=(1.0, 0.9): Invalid beta parameter at index 0: 1.0"),
        (["--optim.weight_decay", "-1"], "optim.weight_decay=-1.0: Invalid weight_decay value: -1.0"),
        (["--optim", "adamw"], "optim=adamw is not a known Optimizer; did you mean AdamW? Known are Adafactor, "),
        (["--optim", "AdamX"], "optim=AdamX is not a known Optimizer; did you mean Adam? Known are Adafactor, "),
        (["--optim", "SGD", "--optim.betas", "[0.9, 0.99]"], "unknown setting optim.betas"),
        (["--optim", "SGD", "--optim.fused", "true"], "unknown setting optim.fused"),
        (["--optim", "SGD", "--optim.nesterov", "true"], "optim.nesterov=True: Nesterov momentum requires a momentum"),
        (["--optim", "Adafactor", "--optim.eps", "1"], "optim.eps=1: it should be a valid tuple"),
        (["--optim", "LBFGS"], "optim=LBFGS cannot train here: it computes the loss several times per step"),
        (["--optim", "torch.optim.LBFGS"], "optim=LBFGS cannot train here: it computes the loss several times"),
        (["--optim", "SparseAdam"], "optim=SparseAdam cannot train here: it is for sparse gradients, which no "),
        (["--optim.help", "AdamY"], "AdamY is not a known Optimizer; did you mean Adam?"),
        (["--checkpoint.keep", "0"], "checkpoint.keep=0 is not a positive number"),
        (["--log.every", "0"], "log.every=0 is not a positive number"),
        (["--loader.threads", "0"], "loader.threads=0 is not a positive number"),
    ],
)
def test_a_bad_setting_is_one_sentence(argv: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert failing_train(argv, capsys).startswith(sentence)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("train: {stpes: 3}", "run.yaml: unknown setting train.stpes=3; did you mean train.steps?"),
        ("trian: {steps: 3}", "run.yaml: unknown setting trian.steps=3; did you mean train.steps?"),
        ("model: {init_args: {wdth: 1}}", "unknown setting model.wdth; did you mean model.width?"),
        ("train: {steps: yes}", "train.steps=True: it should be a number, not true or false"),
        ("optim: {lr: true}", "optim.lr=True: it should be a number, not true or false"),
        ("model: {init_args: {width: true}}", "model.width=True: it should be a number, not true or false"),
    ],
)
def test_unknown_keys_and_booleans_for_numbers_in_a_file_are_named(
    text: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(text)
    assert failing_train(["--config", "run.yaml"], capsys).startswith(sentence)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("model: bomb.Model", "model=bomb.Model is not a known Colorizer"),
        ("loss: {class_path: bomb.Loss}", "loss=bomb.Loss is not a known ColorLoss"),
        ("model: other.yaml", "model=other.yaml is not a known Colorizer"),
        ("model: {VGGColorizer: {width: 1}}", "unknown setting model.VGGColorizer.width"),
        ("model: [VGGColorizer]", "model=['VGGColorizer'] is not a known Colorizer"),
        ("model.class_path: bomb.Model", "model=bomb.Model is not a known Colorizer"),
        ("model: {class_path: VGGColorizer, init_args: other.yaml}", "unknown setting model.init_args"),
        ("loss: {class_path: L2, init_args: {inner: [{class_path: bomb.Loss}]}}", "unknown setting loss.inner"),
        (
            "loss: {class_path: Focal, init_args: {base: bomb.Loss}}",
            "loss.base=bomb.Loss is not a known ElementwiseLoss",
        ),
        ("loss: {class_path: Focal, init_args: {base: {class_path: bomb.Loss}}}", "loss.base=bomb.Loss is not a known"),
        (
            "loss: {class_path: Focal, init_args: {base: {class_path: L2, init_args: {resolution: {a: bomb.Loss}}}}}",
            "unknown setting loss.base.resolution.a",
        ),
        ("loss: {class_path: Focal, init_args: {base: {init_args: {k: 3}}}}", "loss.base must be given"),
        ("loss: {class_path: L2, init_args: {inner: bomb.Loss}}", "unknown setting loss.inner"),
        ("model: {class_path: VGGColorizer, dict_kwargs: {a: 1}}", "unknown setting model.dict_kwargs.a"),
        ("data: {class_path: bomb.Model}", "unknown setting data=bomb.Model"),
        ("train: other.yaml", "unknown setting train=other.yaml"),
        ("config: other.yaml", "unknown setting config=other.yaml"),
        ("plugin: bomb", "unknown setting plugin=bomb"),
        ("!!python/object/apply:os.mkdir [mark]", "run.yaml cannot be read as YAML"),
        ("just words", "holds no settings"),
    ],
)
def test_a_file_can_neither_import_nor_read_other_files(
    text: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only the command line may name code to run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "bomb.py").write_text(
        "from pathlib import Path\nfrom photochrom.losses import L2 as Loss\n"
        "from photochrom.models import VGGColorizer as Model\nPath('mark').mkdir()\n"
    )
    (tmp_path / "other.yaml").write_text("class_path: bomb.Model\n")
    (tmp_path / "run.yaml").write_text(text)
    assert sentence in failing_train(["--config", "run.yaml"], capsys)
    assert not (tmp_path / "mark").exists()


def test_a_class_in_a_file_is_known_after_plugin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_colorizers.py").write_text(
        "from photochrom.models import VGGColorizer\n\n\nclass Mine(VGGColorizer):\n    pass\n"
    )
    (tmp_path / "run.yaml").write_text("model: my_colorizers.Mine")
    config = parse(["--plugin", "my_colorizers", "--config", str(tmp_path / "run.yaml"), *BASE])
    assert config.model.class_path == "my_colorizers.Mine"


def test_a_class_named_on_the_command_line_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_parts.py").write_text(
        "from photochrom.losses import L2\nfrom photochrom.models import VGGColorizer\n\n\n"
        "class Net(VGGColorizer):\n"
        "    def __init__(self, depth, sizes: dict[str, int], **rest):\n        super().__init__(**rest)\n\n\n"
        "class Loss(L2):\n    pass\n"
    )
    words = ["--model", "my_parts.Net", "--model.depth", "3", "--model.width=0.5", "--model.sizes", "{a: 1}"]
    config = parse([*BASE, *words, "--loss", "Focal", "--loss.base", "my_parts.Loss"])
    assert config.model == ModelSpec(class_path="my_parts.Net", init_args={"depth": 3, "sizes": {"a": 1}, "width": 0.5})
    assert config.loss.init_args["base"] == {"class_path": "my_parts.Loss", "init_args": {"resolution": "output"}}


def test_the_settings_of_a_class_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        parse(["--loss.help", "Focal"])
    assert exit_.value.code == 0
    page = capsys.readouterr().out
    assert "--loss.weighting {relative,smooth}" in page
    assert "--loss.gamma FLOAT" in page
    assert "(default: 0.2)" in page


def test_another_class_starts_from_its_own_defaults() -> None:
    config = parse(["--config", "l2", *BASE, "--loss", "SmoothL1", "--loss.beta", "2"])
    assert config.loss == ClassSpec(class_path="SmoothL1", init_args={"beta": 2.0, "resolution": "output"})


def test_adam_has_the_same_default_wherever_it_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.yaml").write_text("optim: AdamW")
    assert parse(["--config", str(tmp_path / "run.yaml"), *BASE]).optim.init_args["lr"] == 1e-3
    config = parse(["--config", str(tmp_path / "run.yaml"), *BASE, "--optim", "Adam"])
    assert config.optim.init_args["lr"] == parse(BASE).optim.init_args["lr"] == 1e-4
    with pytest.raises(SystemExit):
        parse(["--optim.help", "Adam"])
    assert "learning rate. (default: 0.0001)\n" in capsys.readouterr().out


def test_recipes_and_overrides() -> None:
    config = parse(["--config", "l2", *BASE, "--train.steps", "50", "--model.width", "0.25", "--data.size=128"])
    settings = {
        "width": 0.25,
        "normalization": "seed",
        "head": "ab",
        "temperature": 0.38,
        "upsampling": "bicubic",
        "dilation": "auto",
    }
    assert config.model == ModelSpec(class_path="VGGColorizer", init_args=settings)
    assert config.loss == ClassSpec(class_path="L2", init_args={"resolution": "input"})
    assert (config.train.steps, config.train.batch_size, config.train.epochs) == (50, 224, 100)
    assert (config.data.size, config.data.crop, config.data.flip) == (128, "squash", False)
    assert config.optim.init_args["lr"] == 1e-4


@pytest.mark.parametrize("recipe", ["demo", "l2", "focal_l2", "rebalanced_ce", "focal_ce"])
def test_the_resolved_configuration_reads_back(recipe: str, tmp_path: Path) -> None:
    config = parse(["--config", recipe, *BASE, "--data.val", "other"])
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(to_plain_dict(config)))
    assert parse(["--config", str(tmp_path / "config.yaml")]) == config


@pytest.mark.parametrize("recipe", ["small_l2", "small_rebalanced_ce"])
def test_shipped_models_are_trained_in_two_parts(recipe: str) -> None:
    first, second = (parse(["--config", recipe, *more, "--out", "run"]) for more in ([], ["--config", "small_128"]))
    assert first.model == second.model
    assert first.data.weights == second.data.weights
    assert len(first.data.train) == len(first.data.weights) == 10
    assert (first.data.size, second.data.size) == (64, 128)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_file_that_windows_wrote(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("train:\r\n  steps: 7\r\n", encoding=encoding)
    assert parse([*BASE, "--config", str(tmp_path / "a.yaml")]).train.steps == 7


def test_a_name_with_nul_in_a_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text('data:\n  val: "a\\0b"\n')
    assert failing_train(["--config", str(tmp_path / "a.yaml")], capsys).startswith("data.val holds a NUL character")


def test_off_in_a_file_is_a_word(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("train: {compile: off}")
    assert parse(["--config", str(tmp_path / "run.yaml"), *BASE]).train.compile == "off"


def test_options_override_files_in_any_order() -> None:
    first, last = (
        parse([*words, *BASE])
        for words in (["--config", "l2", "--optim.lr", "3"], ["--optim.lr", "3", "--config", "l2"])
    )
    assert first == last
    assert last.optim.init_args["lr"] == 3


def test_several_sets() -> None:
    config = parse([*BASE, "--data.train", "[shards/a, s3://bucket/b]", "--data.weights", "[3, 1]"])
    assert (config.data.train, config.data.weights) == (["shards/a", "s3://bucket/b"], [3, 1])
