"""Command lines described by constructors: argparse reads the words, pydantic converts them to the right types."""

import argparse
import difflib
import inspect
import os
import sys
from collections.abc import Collection, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from types import MappingProxyType, NoneType, UnionType
from typing import Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin

import docstring_parser

from ...pipelines.structured import parse_yaml
from ..console import console, one_line

T = TypeVar("T")

_TOO_LARGE = 2**63
_MAX_SHOWN = 80  # characters of a value in a message


def parameters(cls: type) -> dict[str, inspect.Parameter]:
    """Returns the named parameters of a constructor, with their types as annotations."""
    unnamed = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    all_parameters = inspect.signature(cls, eval_str=True).parameters
    return {name: parameter for name, parameter in all_parameters.items() if parameter.kind not in unnamed}


class UsageError(ValueError):
    """A fault of the command line that is found after it was parsed; the exit code is 2."""


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

    def add_options(self, cls: type, *, positional: Collection[str] = ()) -> None:
        """Adds an option, --with-dashes, for each parameter of `cls`: flags for booleans, several words for lists."""
        help_texts = _help_texts(cls)
        for name, parameter in parameters(cls).items():
            kind, required = parameter.annotation, parameter.default is parameter.empty
            settings: dict[str, Any] = {"help": help_texts[name]}
            if get_origin(kind) is list:
                (kind,) = get_args(kind)
                settings["nargs"] = "*" if name in positional and not required else "+"
            if name in positional:
                self.add_argument(name, **settings)
            elif kind is bool:
                self.add_argument(_option(name), dest=name, action="store_true", **settings)
            else:
                self.add_argument(_option(name), dest=name, required=required, metavar=_metavar(kind), **settings)

    def add_settings(self, cls: type, prefix: str = "", *, skip: Collection[str] = ()) -> None:
        """Adds an option, --PREFIX.NAME VALUE, for each parameter of `cls`, except the dotted names in `skip`."""
        group = self.add_argument_group(prefix.rstrip("."), description(cls)) if prefix else self
        help_texts = _help_texts(cls)
        for name, parameter in parameters(cls).items():
            if prefix + name not in skip:
                group.add_argument(f"--{prefix}{name}", metavar=_metavar(parameter.annotation), help=help_texts[name])

    def error(self, message: str) -> NoReturn:
        if os.environ.get("RANK", "0") == "0":  # all processes of a launcher read the same command line
            console.print(f"{self.prog}: {one_line(message)} ('{self.prog} --help' explains)")
        sys.exit(2)


def parse_options(config: type[T], argv: list[str], *, prog: str, positional: Collection[str] = ()) -> T:
    """Returns the dataclass `config` filled from a command line.

    Its docstring is the help. Fields named in `positional` are positional arguments, the others options.
    """
    parser = Parser(prog=prog, description=description(config))
    parser.add_options(config, positional=positional)
    values = parser.parse(argv)
    try:
        return build(config, values, {name: name for name in positional})
    except ValueError as error:
        parser.error(str(error))


def build(cls: type[T], values: Mapping[str, Any], names: Mapping[str, str] = MappingProxyType({})) -> T:
    """Returns `cls(**values)`, with each value converted to its parameter's type.

    Raises ValueError with the setting, under its name in `names` or as an option, and the value.
    """
    arguments: dict[str, Any] = {}
    for name, parameter in parameters(cls).items():
        label = names.get(name, _option(name))
        if name in values:
            arguments[name] = convert(values[name], parameter.annotation, label)
        elif parameter.default is parameter.empty:
            raise ValueError(f"{label} must be given")
    return cls(**arguments)


def convert(value: Any, kind: Any, name: str) -> Any:
    """Returns `value`, which may be text, as the type `kind`; raises ValueError with the setting's name and value."""
    from pydantic import ConfigDict, TypeAdapter, ValidationError  # not needed for --help

    choices = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    if value == "null" and NoneType in choices:
        return None
    if isinstance(value, str) and "\0" in value:  # from a file of settings; no file has such a name
        raise ValueError(f"{name} holds a NUL character: remove it")
    is_list = isinstance(value, str) and value.startswith("[") and any(get_origin(choice) is list for choice in choices)
    if isinstance(value, str) and choices[0] in (str, Path) and not is_list:
        return choices[0](value)  # also names of files that are not Unicode, which pydantic refuses
    if isinstance(value, list) and get_origin(kind) is list:
        return [convert(item, get_args(kind)[0], name) for item in value]
    if value is False and "off" in get_args(kind):
        return "off"  # which YAML 1.1 reads as false
    config = None if is_dataclass(kind) else ConfigDict(arbitrary_types_allowed=True)  # a dataclass takes no config
    try:
        if isinstance(value, str) and (value.startswith(("[", "{")) or kind in (Any, inspect.Parameter.empty)):
            value = parse_yaml(value, f"{name}={_shorten(value)}")
        items = value if isinstance(value, list) else [value]
        if {int, float} & {kind, *get_args(kind)} and any(isinstance(item, bool) for item in items):
            raise ValueError(f"{name}={value}: it should be a number, not true or false")  # pydantic takes true for 1
        _check_numbers(value, name)
        if kind is inspect.Parameter.empty:
            return value
        converted = TypeAdapter(kind, config=config).validate_python(value)
        _check_numbers(converted, name)
        return converted
    except ValidationError as error:
        reasons = dict.fromkeys(
            fault["msg"].replace("Input", "it").partition(", unable to parse")[0]
            for fault in error.errors(include_url=False)
        )
        raise ValueError(f"{name}={_shorten(value)}: {' or '.join(reasons)}") from None


def _check_numbers(value: Any, name: str) -> None:
    """Raises ValueError when a number in a value is not finite, or beyond what libraries count and multiply with."""
    if isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            _check_numbers(item, name)
    elif isinstance(value, int | float) and not abs(value) < _TOO_LARGE:
        shown = f"={value}" if isinstance(value, float) else ""  # Python does not print very long integers
        raise ValueError(f"{name}{shown} is not a finite number of at most 18 digits")


def _shorten(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def nearest(name: str, known: Collection[str]) -> str:
    """Returns '; did you mean X?' for the known name most like `name`, or nothing."""
    others = [other for other in known if other != name]
    same = [other for other in others if other.lower() == name.lower()]
    matches = same or difflib.get_close_matches(name, others, n=1, cutoff=0.5)
    return f"; did you mean {matches[0]}?" if matches else ""


def alternatives(name: str, known: Collection[str]) -> str:
    """Returns the end of a sentence on an unknown name: '; did you mean X? Known are X, Y'."""
    return f"{nearest(name, known) or '.'} Known are {', '.join(known)}"


def description(cls: type) -> str:
    """Returns the text of a class's docstring without its arguments."""
    return docstring_parser.parse(cls.__doc__ or "").description or ""


def _help_texts(cls: type) -> dict[str, str]:
    """Returns the help of each parameter: its text in the docstring, and its default."""
    texts = {param.arg_name: param.description or "" for param in docstring_parser.parse(cls.__doc__ or "").params}
    for name, parameter in parameters(cls).items():
        default = list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
        shown = isinstance(default, int | float | str | list | Path) and default is not False
        texts[name] = texts.get(name, "").replace("%", "%%") + (f" (default: {default})" if shown else "")
    return texts


def _metavar(kind: Any) -> str:
    """Returns a type as help shows it: INT, {auto,off}, [FLOAT,FLOAT]."""
    if get_origin(kind) is Literal:
        choices = ",".join(map(str, get_args(kind)))
        return f"{{{choices}}}" if "," in choices else choices
    parts = [_metavar(part) for part in get_args(kind) if part is not NoneType]
    if get_origin(kind) in (list, tuple):
        return f"[{','.join(parts)}]"
    names = {bool: "BOOL", int: "INT", float: "FLOAT", str: "TEXT", Path: "PATH"}
    return "|".join(parts) or names.get(kind, "NAME")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
