import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import photochrom
import pytest
from photochrom.engine.checkpoints.model_file import load_with_metadata, save_model
from photochrom.engine.cli import VERBS, main
from photochrom.engine.commands.train import parse
from photochrom.engine.configuration.config import ClassSpec
from photochrom.pipelines import ShardSet

BASE = ["--out", "run", "--data.train", "shards"]


def run_failing(argv: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Returns the exit code and the one line on stderr."""
    try:
        code = main(argv)
    except SystemExit as exit_:
        code = int(exit_.code)
    output = capsys.readouterr()
    assert output.out == ""
    assert "Traceback" not in output.err
    assert len(output.err.strip().splitlines()) == 1, output.err
    return code, output.err.strip()


@pytest.mark.parametrize(
    ("argv", "code", "sentence"),
    [
        (["train", "--out", "run"], 2, "photochrom train: data.train must be given"),
        (["train", "--data.train", "shards"], 2, "photochrom train: --out must be given"),
        (["pack", "photos"], 2, "photochrom pack: the following arguments are required: out"),
        (
            ["pack", "a", "b", "--short-sid", "3"],
            2,
            "photochrom pack: unknown option --short-sid; did you mean --short-side?",
        ),
        (["pack", "a", "b", "--short-side", "x"], 2, "photochrom pack: --short-side=x: it should be a valid integer"),
        (["pack", "a", "b", "--quality", "101"], 2, "photochrom pack: --quality 101 is not between 1 and 100"),
        (["pack", "nowhere", "b"], 1, "photochrom pack: there is no folder or archive nowhere"),
        (["evaluate", "a", "--data", "b"], 2, "photochrom evaluate: the following arguments are required: --out"),
        (["evaluate", "a", "--data", "b", "--out", "c", "--size", "8"], 2, "photochrom evaluate: --size 8 is below 16"),
        (
            ["evaluate", "a", "--data", "b", "--out", "c", "--crop", "oval"],
            2,
            "photochrom evaluate: --crop=oval: it should be 'squash' or 'center'",
        ),
        (
            ["colorize", "--model", "a", "b", "--out", "c", "--size", "1"],
            2,
            "photochrom colorize: --size 1 is not between 8",
        ),
        (
            ["colorize", "--model", "smal-l2", "x.jpg"],
            1,
            "photochrom colorize: there is no checkpoint at smal-l2; did you ",
        ),
        (
            ["evaluate", "small-l2", "--data", "b", "--out", "c", "--plugin", ".x"],
            2,
            "photochrom evaluate: --plugin .x can",
        ),
        (["train", "--plugin", "a b", *BASE], 2, "photochrom train: --plugin a b cannot be imported"),
        (["export", "small-l2", "here.pt"], 2, "photochrom export: OUT here.pt does not end in .onnx or .safetensors"),
        (["bench", "scale", "--machine", "v100"], 2, "photochrom bench scale: --machine v100 is neither a .yaml file"),
        (["train", "--config", "demo", *BASE], 1, "photochrom train: there is no shard set at shards"),
    ],
)
def test_bad_usage_is_one_sentence(
    argv: list[str],
    code: int,
    sentence: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    exit_code, message = run_failing(argv, capsys)
    assert exit_code == code
    assert message.startswith(sentence)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian"]) == 2
    assert "there is no verb 'trian'; did you mean train?" in capsys.readouterr().err


# Prints for each verb, in one process, its help and the modules among HEAVY that it has imported.
HELP = """
import contextlib, io, json, sys
from photochrom.bench.command import VERBS as BENCHMARKS
from photochrom.engine.cli import VERBS, main

heavy, pages = set(sys.argv[1:]), {}
for verb in [*VERBS, *(f"bench {name}" for name in BENCHMARKS)]:
    before, page = set(sys.modules), io.StringIO()
    with contextlib.redirect_stdout(page), contextlib.suppress(SystemExit):
        main([*verb.split(), "--help"])
    pages[verb] = page.getvalue(), sorted(heavy & set(sys.modules) - before)
print(json.dumps(pages))
"""
HEAVY = ("torch", "numba", "nvidia", "kornia", "matplotlib", "accelerate", "scipy", "skimage")


def test_every_verb_explains_itself_without_heavy_imports() -> None:
    done = subprocess.run([sys.executable, "-c", HELP, *HEAVY], capture_output=True, text=True, check=True)
    pages = json.loads(done.stdout)
    assert len(pages) > len(VERBS)
    for verb, (page, heavy) in pages.items():
        assert page.startswith(f"usage: photochrom {verb} ")
        assert "--help" in page
        assert heavy == [], f"photochrom {verb} --help"


def test_help_lists_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    page = capsys.readouterr().out
    assert all(f"{verb:10} {text}" in page for verb, text in VERBS.items())
    assert main([]) == 2
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip().endswith(photochrom.__version__)


def test_a_custom_loss_in_a_model_file_is_not_imported(
    trained: Path, shards: ShardSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """tests/test_docs.py imports one by --plugin."""
    network, metadata = load_with_metadata(trained)
    file = tmp_path / "model.safetensors"
    save_model(network.state_dict(), replace(metadata, loss=ClassSpec(class_path="my_losses.L1", init_args={})), file)
    assert main(["evaluate", str(file), "--data", str(shards.root), "--out", str(tmp_path / "scores")]) == 1
    assert "my_losses.L1 is not a known ColorLoss" in capsys.readouterr().err


def test_modules_in_the_current_folder_are_not_imported(trained: Path, photos: Path, tmp_path: Path) -> None:
    """Libraries try to import optional packages by name; files of these names in the current folder are not meant."""
    for name in ("torch_xla", "wandb", "deepspeed"):
        (tmp_path / f"{name}.py").write_text("open('mark', 'w')")
    command = tmp_path / "bin" / "photochrom"  # as the installed one, in one process
    command.parent.mkdir()
    command.write_text(
        "import sys\nfrom photochrom.engine.cli import main\nmodel, photo = sys.argv[1:]\n"
        "assert main(['colorize', '--model', model, photo, '--out', 'out']) == 0\n"
        "assert main(['evaluate', 'nowhere', '--data', 'nowhere', '--out', 'scores']) == 1\n"
    )
    subprocess.run([sys.executable, command, trained, photos / "rocket.jpg"], check=True, cwd=tmp_path)
    assert not (tmp_path / "mark").exists()


def test_the_installed_command() -> None:
    executable = Path(sys.executable).parent / "photochrom"
    done = subprocess.run([executable, "verify", "nowhere"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("photochrom verify: there is no shard set at nowhere")


def test_file_names_need_not_be_unicode(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = os.fsdecode(b"caf\xe9")  # Latin-1 on a UTF-8 system
    assert parse(["--out", name, "--data.train", name]).out == Path(name)
    assert main(["colorize", "--model", "nowhere", name, "--out", str(tmp_path / name)]) == 1
    assert "nowhere" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (MemoryError(), "this machine's memory is full: lower --workers, or end other programs"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 72 bytes."),
            "this machine's memory is full (it could not allocate 72 bytes): lower --workers, or end other programs",
        ),
        (BrokenPipeError(32, "Broken pipe"), "[Errno 32] Broken pipe"),  # of a process, not of the output
        (
            RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0"),
            "the GPU's memory is full (it could not allocate 2.00 GiB): lower --workers, or use --device cpu",
        ),
    ],
)
def test_errors_of_libraries_are_one_sentence(
    error: Exception, sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(argv: list[str]) -> int:
        raise error

    monkeypatch.setattr("photochrom.engine.commands.pack.main", fail)
    assert run_failing(["pack"], capsys) == (1, f"photochrom pack: {sentence}")


def test_the_device_of_training_has_its_own_option(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(argv: list[str]) -> int:
        raise RuntimeError("CUDA out of memory.")

    monkeypatch.setattr("photochrom.engine.commands.train.main", fail)
    assert run_failing(["train"], capsys)[1].endswith("or lower --train.batch_size, or use --train.device cpu")


@pytest.mark.parametrize("arguments", [["--help"], ["models"], ["stats", "SET"]])
def test_a_reader_that_leaves_ends_the_command_quietly(arguments: list[str], shards: ShardSet) -> None:
    """As `head` does."""
    words = [str(shards.root) if word == "SET" else word for word in arguments]
    receiver, sender = os.pipe()
    os.close(receiver)
    with open(sender, "wb") as closed:
        done = subprocess.run([sys.executable, "-m", "photochrom", *words], stdout=closed, stderr=subprocess.PIPE)
    assert done.stderr == b""
    assert done.returncode in (0, 1, 141)  # lines end with 0, as the work goes on; Rich with 1


def test_a_full_output_is_one_sentence() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run([sys.executable, "-m", "photochrom", "--help"], stdout=full, stderr=subprocess.PIPE)
    assert done.stderr == b"photochrom: the output cannot be written: No space left on device\n"
    assert done.returncode == 1
