"""Every numeric option of every verb, as the parsers themselves know them, with numbers that overflow somewhere."""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from photochrom.bench.command import _MODULES
from photochrom.bench.command import VERBS as BENCHMARKS
from photochrom.engine import cli
from photochrom.engine.configuration.parser import Parser
from photochrom.engine.configuration.registry import CLASSES
from photochrom.engine.configuration.run_parser import RunParser, run_config
from photochrom.pipelines import ShardSet

REQUIRED = {
    "pack": ["photos", "out"],
    "index": ["shards"],
    "verify": ["shards"],
    "train": ["--out", "run", "--data.train", "shards"],
    "evaluate": ["model", "--data", "shards", "--out", "out"],
    "colorize": ["photo.jpg"],
    "serve": [],
    "convert": ["weights.pt", "out.safetensors"],
    "bench loader": ["--data", "shards"],
    "bench step": [],
    "bench stalls": ["--data", "shards"],
    "bench rivals": ["--data", "photos"],
    "bench scale": [],
}
WITHOUT_NUMBERS = {"stats", "models", "export", "doctor", "bench", "bench report"}
REFUSED = ["-1", str(2**63), str(2**64), "1" + 400 * "0", 5000 * "1", "nan", "inf", "1e400", ""]
SOMETIMES = ["0", str(2**31), "5.5"]


class Parsed(BaseException):
    """The command line is right, and the work would begin."""


@pytest.fixture
def parsers(monkeypatch: pytest.MonkeyPatch) -> list[Parser]:
    """The parsers that verbs have made; no verb gets further than its command line."""
    made: list[Parser] = []
    parse = Parser.parse

    def record(self: Parser, argv: list[str]) -> dict[str, Any]:
        made.append(self)
        return parse(self, argv)

    monkeypatch.setattr(Parser, "parse", record)
    for verb in REQUIRED:
        name = verb.removeprefix("bench ")
        path = f"bench{_MODULES.get(name, f'.{name}.command')}" if verb != name else f"engine.commands.{verb}"
        module = import_module(f"photochrom.{path}")
        for function in {"parse_options", "parse_run", "parse"} & set(vars(module)):
            monkeypatch.setattr(module, function, stopping(getattr(module, function)))
    return made


def stopping(parse: Any) -> Any:
    def stop(*arguments: Any, **settings: Any) -> None:
        parse(*arguments, **settings)
        raise Parsed

    return stop


def numeric_options(parser: Parser) -> Iterator[Any]:
    """Yields the options that take nothing but numbers, and words such as none."""
    for action in parser._actions:
        kinds = str(action.metavar)
        if ("INT" in kinds or "FLOAT" in kinds) and "PATH" not in kinds and "TEXT" not in kinds:
            yield action


def outcome(verb: str, argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Returns the sentence of a refusal; nothing if the command line is right."""
    with pytest.raises((Parsed, SystemExit)) as stopped:
        cli.main([*verb.split(), *argv])
    if stopped.type is Parsed:
        return ""
    assert stopped.value.code == 2  # type: ignore[union-attr]
    sentence = capsys.readouterr().err
    assert sentence.startswith(f"photochrom {verb}: ")
    assert len(sentence.splitlines()) == 1
    assert len(sentence) < 400
    return sentence


def test_all_verbs_are_walked() -> None:
    assert REQUIRED.keys() | WITHOUT_NUMBERS == {*cli.VERBS, *(f"bench {name}" for name in BENCHMARKS)}


@pytest.mark.parametrize("verb", REQUIRED)
def test_numbers_beyond_the_range_are_one_sentence(
    verb: str, parsers: list[Parser], capsys: pytest.CaptureFixture[str]
) -> None:
    assert outcome(verb, REQUIRED[verb], capsys) == ""
    (parser,) = parsers
    options = [action for action in numeric_options(parser) if "." not in action.dest]
    assert options or verb == "train"
    for action in options:
        for value in [*REFUSED, *SOMETIMES]:
            option = action.option_strings[0]
            sentence = outcome(verb, [*REQUIRED[verb], f"{option}={value}"], capsys)
            assert sentence or value in SOMETIMES, f"{option}={value[:30]} is taken"
            assert action.dest.replace("_", "-") in sentence or not sentence


def refusal(settings: dict[str, Any]) -> str:
    try:
        run_config(
            {"out": "run", "data.train": "shards", "model": "VGGColorizer", "loss": "L2", "optim": "Adam", **settings}
        )
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("value", [*REFUSED, *SOMETIMES], ids=lambda value: value[:20])
def test_settings_of_a_run(value: str) -> None:
    assert refusal({}) == ""
    options = list(numeric_options(RunParser([])))
    assert len(options) > 25
    for option in options:
        sentence = refusal({option.dest: value})
        assert sentence.startswith(option.dest) or value in SOMETIMES, f"{option.dest}: {sentence}"
        assert len(sentence) < 300


NUMBERS = [0, -1, 2**31, 0.0, 1e18, 2**63, 10**400, "nan", "inf", "", "1e400"]


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: str(number)[:20])
def test_arguments_of_losses_and_optimizers(number: Any) -> None:
    """The networks are not built: wide ones take memory."""
    for setting, (_, classes) in CLASSES.items():
        for name, cls in classes.items():
            page, wrapped = Parser(), {"loss.base": "L2"} if name == "Focal" else {}
            page.add_settings(cls, f"{setting}.")
            for option in numeric_options(page):
                sentence = refusal({**wrapped, setting: name, option.dest: number})
                assert len(sentence) < 600
                if sentence:
                    assert sentence.startswith((f"{setting}={name} ", option.dest)), sentence
                else:
                    assert number in NUMBERS[:5], option.dest


@pytest.mark.slow
def test_the_largest_numbers_work(shards: ShardSet, photos: Path, tmp_path: Path) -> None:
    """Those of memory and threads are left out: what they may be is a matter of the machine."""
    most, seed, seconds = str(2**31 - 1), str(2**63 - 1), "1000000"
    pack = ["--workers", "1", "--short-side", "64", "--seed", seed, "--time-limit", seconds, "--shard-samples", most]
    assert cli.main(["pack", str(photos), str(tmp_path / "set"), *pack]) == 0
    data = ["--data.train", str(tmp_path / "set"), "--data.size", "32", "--train.batch_size", "2", "--train.steps", "1"]
    counts = ["log.every", "log.preview_every", "checkpoint.every", "checkpoint.keep", "loader.shuffle_block_size"]
    counts += ["schedule.reference_batch_size", "train.epochs", "train.max_nonfinite_steps"]
    options = [word for name in counts for word in (f"--{name}", most)]
    options += ["--train.seed", seed, "--train.timeout", seconds, "--train.max_grad_norm", "1e12"]
    run = ["--model.width", "0.0625", "--out", str(tmp_path / "run"), *data, *options]
    assert cli.main(["train", *run]) == 0
    score = ["--size", "32", "--gallery", most, "--batch-size", most, "--out", str(tmp_path / "report")]
    assert cli.main(["evaluate", "--baseline", "grey", "--data", str(shards.root), *score]) == 0
    colorize = ["--size", "65536", "--batch-size", most, "--out", str(tmp_path / "colour")]
    assert cli.main(["colorize", str(photos / "rocket.jpg"), "--model", str(tmp_path / "run"), *colorize]) == 0
