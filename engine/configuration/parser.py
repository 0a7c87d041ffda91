"""Command lines described by constructors: argparse reads the words, pydantic converts them to the arguments' types."""

import argparse
import difflib
import inspect
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from types import MappingProxyType, UnionType
from typing import Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

import docstring_parser

from ..console import console

T = TypeVar("T")


@dataclass(frozen=True)
class Argument:
    """An argument of a constructor; `own` ones are not handed on to a base class."""

    type: Any
    default: Any
    help: str
    own: bool

    @property
    def required(self) -> bool:
        return self.default is inspect.Parameter.empty


def constructor_arguments(cls: type) -> dict[str, Argument]:
    """Returns the arguments of a class, also those that its constructor hands on to its bases by **kwargs."""
    arguments: dict[str, Argument] = {}
    texts: dict[str, str] = {}
    for base in cls.__mro__:
        texts = {param.arg_name: param.description or "" for param in _docstring(base).params} | texts
        constructor = vars(base).get("__init__")
        if not inspect.isfunction(constructor):
            continue
        parameters = list(inspect.signature(constructor).parameters.values())[1:]
        hints, own = get_type_hints(constructor), not arguments
        for parameter in parameters:
            if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                kind, text = hints.get(parameter.name, Any), texts.get(parameter.name, "")
                arguments.setdefault(parameter.name, Argument(kind, parameter.default, text, own))
        if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters):
            break
    return arguments


def description(cls: type) -> str:
    """Returns the text of a class's docstring without its arguments."""
    return _docstring(cls).description or ""


def _docstring(cls: type) -> docstring_parser.Docstring:
    return docstring_parser.parse(inspect.cleandoc(cls.__doc__ or ""))


class Parser(argparse.ArgumentParser):
    """A parser that prints one sentence on bad usage and exits with 2."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, argument_default=argparse.SUPPRESS, **settings)

    def parse(self, argv: list[str]) -> dict[str, Any]:
        """Returns the options that `argv` gives, by name; exits when it gives an unknown one."""
        values, unknown = self.parse_known_args(argv)
        if unknown and unknown[0].startswith("-"):
            option = unknown[0].partition("=")[0]
            self.error(f"unknown option {option}{nearest(option, self._option_string_actions)}")
        if unknown:
            self.error(f"{unknown[0]} is one argument too many")
        return vars(values)

    def add_options(self, cls: type, *, positional: Iterable[str] = ()) -> None:
        """Adds an option, --with-dashes, for each argument of `cls`: flags for booleans, several words for lists."""
        for name, argument in constructor_arguments(cls).items():
            is_list = get_origin(argument.type) is list
            settings: dict[str, Any] = {"help": help_text(argument)}
            if argument.type is bool:
                settings["action"] = "store_true"
            elif name not in positional:
                settings["metavar"] = metavar(get_args(argument.type)[0] if is_list else argument.type)
            if is_list:
                settings["nargs"] = "*" if name in positional and not argument.required else "+"
            if name in positional:
                self.add_argument(name, **settings)
            else:
                self.add_argument(_option(name), dest=name, required=argument.required, **settings)

    def error(self, message: str) -> NoReturn:
        if os.environ.get("RANK", "0") == "0":  # all processes of a launcher read the same command line
            console.print(f"{self.prog}: {' '.join(message.split())} ('{self.prog} --help' explains)")
        sys.exit(2)


def parse_options(config: type[T], argv: list[str], *, prog: str, positional: Iterable[str] = ()) -> T:
    """Returns the dataclass `config` filled from a command line.

    Its docstring is the help. Fields named in `positional` are positional arguments, the others options.
    """
    parser = Parser(prog=prog, description=description(config))
    parser.add_options(config, positional=positional)
    values = parser.parse(argv)
    try:
        return build(config, values, names={name: _option(name) for name in values if name not in positional})
    except ValueError as error:
        parser.error(str(error))


def build(cls: type[T], values: Mapping[str, Any], *, names: Mapping[str, str] = MappingProxyType({})) -> T:
    """Returns `cls(**values)`, with each value converted to its argument's type.

    Raises ValueError naming the setting, as `names` translates it, and the value.
    """
    arguments = constructor_arguments(cls)
    for name, argument in arguments.items():
        if argument.required and name not in values:
            raise ValueError(f"{names.get(name, name)} must be given")
    return cls(**{name: convert(value, arguments[name].type, names.get(name, name)) for name, value in values.items()})


def convert(value: Any, kind: Any, name: str) -> Any:
    """Returns `value`, which may be text, as the type `kind`; raises ValueError with the setting's name and value."""
    from pydantic import ConfigDict, TypeAdapter, ValidationError  # not needed for --help

    choices = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    if isinstance(value, str) and choices[0] in (str, Path):
        return choices[0](value)  # also names of files that are not Unicode, which pydantic refuses
    if isinstance(value, list) and get_origin(kind) is list:
        return [convert(item, get_args(kind)[0], name) for item in value]
    config = None if is_dataclass(kind) else ConfigDict(arbitrary_types_allowed=True)  # a dataclass takes no config
    try:
        return TypeAdapter(kind, config=config).validate_python(value)
    except ValidationError as error:
        reasons = dict.fromkeys(fault["msg"].replace("Input", "it") for fault in error.errors(include_url=False))
        raise ValueError(f"{name}={value}: {' or '.join(reasons)}") from None


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns '; did you mean X?' for the known name most like `name`, or nothing."""
    matches = difflib.get_close_matches(name, [other for other in known if other != name], n=1, cutoff=0.5)
    return f"; did you mean {matches[0]}?" if matches else ""


def help_text(argument: Argument) -> str:
    """Returns the help of an argument with its default."""
    default = argument.default
    text = argument.help
    if isinstance(default, int | float | str | tuple | Path) and default is not False:
        text += f" (default: {list(default) if isinstance(default, tuple) else default})"
    return " ".join(text.split()).replace("%", "%%")


def metavar(kind: Any) -> str:
    """Returns a type as help shows it: INT, {auto,off}, [FLOAT,FLOAT]."""
    if get_origin(kind) is Literal:
        choices = ",".join(map(str, get_args(kind)))
        return f"{{{choices}}}" if "," in choices else choices
    parts = [metavar(part) for part in get_args(kind) if part is not type(None)]
    if get_origin(kind) in (list, tuple):
        return f"[{','.join(parts)}]"
    return "|".join(parts) if parts else getattr(kind, "__name__", "value").upper()


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
