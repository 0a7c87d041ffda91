"""photochrom train --config RECIPE --out RUN --data.train SHARDS"""

import inspect
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonargparse
import torch

from ...losses import LOSSES, ColorLoss
from ...models import MODELS, Colorizer
from ..config import RunConfig, Spec
from ..launch import is_first_process
from ..parser import Parser, nearest
from ..run import train


def main(argv: list[str]) -> int:
    try:
        summary = train(parse(argv))
    except torch.OutOfMemoryError as error:
        raise ValueError(
            f"the GPU's memory is full ({str(error).split('. ')[0]}): raise --train.accumulate, or lower "
            "--train.batch_size"
        ) from None
    if is_first_process():
        print(summary["checkpoint"])
    return 0


def parse(argv: list[str]) -> RunConfig:
    """The run that a command line asks for: recipes or files by --config, then dotted overrides."""
    parser = Parser(prog="photochrom train")
    parser.add_argument("--config", action=jsonargparse.ActionConfigFile, help="Recipe by name, or a YAML file.")
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


def _with_recipes(parser: Parser, argv: list[str]) -> list[str]:
    """The arguments with the names of recipes after --config replaced by their files."""
    recipes = {Path(str(file)).stem: str(file) for file in files("photochrom.recipes").iterdir()}

    def file(name: str) -> str:
        if Path(name).is_file():
            return name
        if name not in recipes:
            known = ", ".join(sorted(recipes))
            parser.error(f"--config {name} is neither a file nor a recipe{nearest(name, recipes)} Known are {known}")
        return recipes[name]

    words = [word for argument in argv for word in _split_config(argument)]
    return [file(word) if i and words[i - 1] == "--config" else word for i, word in enumerate(words)]


def _split_config(argument: str) -> list[str]:
    return argument.split("=", 1) if argument.startswith("--config=") else [argument]


def _spec(values: Any, known: Mapping[str, type]) -> Spec:
    """A class and its arguments as parsed, under its short name if it has one."""
    class_path = values["class_path"]
    name = class_path.rpartition(".")[2]
    short = name in known and class_path in (name, f"{known[name].__module__}.{name}", _public_path(known[name]))
    return Spec(class_path=name if short else class_path, init_args=values.get("init_args", {}).as_dict())


def _public_path(cls: type) -> str:
    return f"{cls.__module__.rpartition('.')[0]}.{cls.__name__}"


def _settings(section: str, classes: Mapping[str, type]) -> Iterator[str]:
    """The dotted names of the constructors' arguments."""
    return (f"{section}.{name}" for cls in classes.values() for name in inspect.signature(cls).parameters)
