"""Configuration files are data: they are checked before jsonargparse reads them, which imports any class they name."""

from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path, PurePath
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from ...losses import LOSSES, ColorLoss
from ...models import MODELS, Colorizer
from .config import ClassSpec, RunConfig
from .parser import nearest
from .registry import argument_types, find_class, wrapped_losses

_CLASSES: dict[str, tuple[type, dict[str, Any]]] = {"model": (Colorizer, MODELS), "loss": (ColorLoss, LOSSES)}
_DEFAULTS = {
    field.name: field.default.class_path for field in fields(RunConfig) if isinstance(field.default, ClassSpec)
}
_PLAIN = (str, int, float, bool, type(None), list, tuple, PurePath, Enum)  # of arguments
SECTIONS = [name for name, kind in get_type_hints(RunConfig).items() if is_dataclass(kind)]


def check_file(path: Path) -> None:
    """Raises ValueError when a file says what only a person may: to import a class, or to read another file."""
    try:
        values = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", error)
        raise ValueError(f"{path} is no YAML file: {problem}{f' in line {mark.line + 1}' if mark else ''}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no settings: see the recipes for what one looks like")
    if "config" in values:
        raise ValueError(f"{path} names another file, config={values['config']}: give both with --config, one by one")
    for section, value in values.items():
        if "." in str(section):
            raise ValueError(f"{path} has the key {section}: write its parts below each other, indented")
        if section in _CLASSES:
            _check_class(path, section, value, *_CLASSES[section])
        elif section in SECTIONS and (not isinstance(value, dict) or "class_path" in value):
            raise ValueError(f"{path} says {section}={value}, which are no settings of {section}")


def _check_class(path: Path, name: str, value: Any, base: type, known: dict[str, Any]) -> None:
    """Raises ValueError when a class is named that is not known or imported yet, also as an argument of another."""
    spec = {"class_path": value} if isinstance(value, str) else value
    if not isinstance(spec, dict) or not spec.keys() <= {f.name for f in fields(ClassSpec)}:
        raise ValueError(f"{path} says {name}={value}: a name is wanted, or class_path and init_args")
    arguments = spec.get("init_args", {})
    if not isinstance(arguments, dict):
        raise ValueError(f"{path} says {name}.init_args={arguments}: names with plain values are wanted, or lists")
    class_path = spec.get("class_path", _DEFAULTS.get(name))
    if class_path is None:
        raise ValueError(f"{path} gives {name} settings, and names no class for it: class_path is wanted, too")
    try:
        cls = find_class(str(class_path), base, known)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    types, wrapped = argument_types(cls), wrapped_losses(cls)
    for argument, given in arguments.items():
        if given is None:  # which names nothing
            continue
        if argument in wrapped:
            _check_class(path, f"{name}.{argument}", given, wrapped[argument], LOSSES)
        elif not _is_plain(given) or not _takes_plain(types.get(argument, Any)):
            raise ValueError(f"{path} says {name}.init_args={arguments}: names with plain values are wanted, or lists")
        elif argument not in types and isinstance(given, str | list):  # it may be handed on to who knows what
            guess = nearest(argument, types)
            raise ValueError(f"{path} says {name}.{argument}={given}, unknown to {cls.__name__}{guess}")


def _is_plain(value: Any) -> bool:
    """Whether a value names no further class: a number, a text, or a list of such."""
    return all(map(_is_plain, value)) if isinstance(value, list) else not isinstance(value, dict)


def _takes_plain(kind: Any) -> bool:
    """Whether an argument of this type is plain: of another, a mere text would be the name of a class to import."""
    if kind is Any or get_origin(kind) is Literal:
        return True
    if parts := get_args(kind):
        return all(_takes_plain(part) for part in parts if part is not ...)
    return isinstance(kind, type) and issubclass(kind, _PLAIN)
