"""photochrom train --config RECIPE --out RUN --data.train SHARDS"""

import argparse
import inspect
import re
import signal
from collections.abc import Iterator, Mapping
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonargparse

from ...losses import LOSSES, ColorLoss
from ...models import MODELS, Colorizer
from ..configuration.config import ClassSpec, RunConfig, to_plain_dict
from ..configuration.config_file import SECTIONS, check_file
from ..configuration.parser import Parser, nearest
from ..configuration.registry import import_plugin, look_in_this_folder, wrapped_losses
from ..console import console
from ..distributed import is_first_process
from ..training.run import train
from ..training.signals import SIGNALS, RunStopped

_IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
_EPILOG = (
    "--plugin MODULE imports a Python module first: a model or loss of your own can then be named in a file, too. "
    "--model.help NAME and --loss.help NAME list the settings of these."
)


def main(argv: list[str]) -> int:
    try:
        summary = train(parse(argv))
    except RunStopped as stopped:
        for number in SIGNALS:  # launchers send them to every process, and again to those that are leaving
            signal.signal(number, signal.SIG_IGN)
        if is_first_process():
            console.print(f"photochrom train: {stopped}")
        return 128 + stopped.number
    if is_first_process():
        print(summary["checkpoint"])
    return 0


def parse(argv: list[str], prog: str = "photochrom train") -> RunConfig:
    """The run that a command line asks for: recipes or files by --config, then dotted overrides."""
    parser = Parser(prog=prog, epilog=_EPILOG)
    argv = _with_plugin(parser, argv)
    parser.add_argument("--config", action=jsonargparse.ActionConfigFile, help="ModelMetadata by name, or a YAML file.")
    parser.add_class_arguments(RunConfig, skip={"model", "loss"})
    parser.add_subclass_arguments(Colorizer, "model", default={"class_path": "VGGColorizer"}, help="Network.")
    parser.add_subclass_arguments(ColorLoss, "loss", default={"class_path": "L2"}, help="Loss.")
    parser.known = [*MODELS, *LOSSES, *_settings("model", MODELS), *_settings("loss", LOSSES)]
    values = parser.parse_args(_with_recipes(parser, argv))
    model, loss = _spec(values.pop("model"), MODELS), _spec(values.pop("loss"), LOSSES)
    try:
        sections = vars(parser.instantiate(values))
        del sections["config"]
        return RunConfig(**sections, model=model, loss=loss)
    except ValueError as error:  # a setting out of its range
        parser.error(str(error))


def _with_plugin(parser: Parser, argv: list[str]) -> list[str]:
    """The arguments without --plugin, whose module is imported: an option, but nothing that a file could set."""
    plugin = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    plugin.add_argument("--plugin")
    try:
        found, rest = plugin.parse_known_args(argv)
    except argparse.ArgumentError as error:
        parser.error(str(error))
    import_plugin(found.plugin)
    return rest


def _with_recipes(parser: Parser, argv: list[str]) -> list[str]:
    """The arguments with the names of recipes after --config replaced by their files, all of them checked."""
    folder = files("photochrom.recipes")
    recipes = {Path(file.name).stem: str(file) for file in folder.iterdir() if file.name.endswith(".yaml")}
    words = [word for argument in argv for word in _split(argument)]
    for i, (option, value) in enumerate(pairwise(words), start=1):
        if option.removeprefix("--") in SECTIONS and Path(value).is_file():
            parser.error(f"{option} {value} names a file: give it with --config")
        if option.partition(".")[0] in ("--model", "--loss") and _IMPORT_PATH.fullmatch(value):
            look_in_this_folder()
        if option != "--config":
            continue
        if not Path(value).is_file():
            if value not in recipes:
                guess, known = nearest(value, recipes) or ".", ", ".join(sorted(recipes))
                parser.error(f"--config {value} is neither a file nor a recipe{guess} Known are {known}")
            words[i] = recipes[value]
        try:
            check_file(Path(words[i]))
        except ValueError as error:
            parser.error(str(error))
    return _files_first(words)


def _files_first(words: list[str]) -> list[str]:
    """The words with every --config before all else: what a person types counts more, wherever it stands."""
    files = [i for i, word in enumerate(words[:-1]) if word == "--config"]
    taken = {j for i in files for j in (i, i + 1)}
    return [words[j] for j in sorted(taken)] + [word for j, word in enumerate(words) if j not in taken]


def _split(argument: str) -> list[str]:
    """--name=value as two words, for undotted names."""
    name, equals, value = argument.partition("=")
    return [name, value] if equals and name.startswith("--") and "." not in name else [argument]


def _spec(values: Any, known: Mapping[str, type]) -> ClassSpec:
    """A class and its arguments as parsed, under its short name if it has one."""
    class_path = values["class_path"]
    name = class_path.rpartition(".")[2]
    short = name in known and class_path in (name, f"{known[name].__module__}.{name}", _public_path(known[name]))
    arguments = vars(values.get("init_args", jsonargparse.Namespace()))
    wrapped = {key: to_plain_dict(_spec(value, LOSSES)) for key, value in arguments.items() if _is_class(value)}
    return ClassSpec(class_path=name if short else class_path, init_args={**arguments, **wrapped})


def _is_class(value: Any) -> bool:
    """Whether an argument is a loss that another one wraps, as parsed."""
    return isinstance(value, jsonargparse.Namespace) and "class_path" in value


def _public_path(cls: type) -> str:
    return f"{cls.__module__.rpartition('.')[0]}.{cls.__name__}"


def _settings(section: str, classes: Mapping[str, type]) -> Iterator[str]:
    """The dotted names of the constructors' arguments, and of those of the losses that they wrap."""
    for cls in classes.values():
        yield from (f"{section}.{name}" for name in inspect.signature(cls).parameters)
        for name, kind in wrapped_losses(cls).items():
            yield from _settings(
                f"{section}.{name}", {key: loss for key, loss in LOSSES.items() if issubclass(loss, kind)}
            )
