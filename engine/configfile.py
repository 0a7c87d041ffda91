"""Configuration files are data: they are checked before jsonargparse reads them, which imports any class they name."""

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from ..losses import LOSSES, ColorLoss
from ..models import MODELS, Colorizer
from .config import RunConfig, Spec
from .weights import find_class

_CLASSES: dict[str, tuple[type, dict[str, Any]]] = {"model": (Colorizer, MODELS), "loss": (ColorLoss, LOSSES)}
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
            _check_class(path, section, value)
        elif section in SECTIONS and (not isinstance(value, dict) or "class_path" in value):
            raise ValueError(f"{path} says {section}={value}, which are no settings of {section}")


def _check_class(path: Path, section: str, value: Any) -> None:
    spec = {"class_path": value} if isinstance(value, str) else value
    if not isinstance(spec, dict) or not spec.keys() <= {f.name for f in fields(Spec)}:
        raise ValueError(f"{path} says {section}={value}: a name is wanted, or class_path and init_args")
    arguments = spec.get("init_args", {})
    if not isinstance(arguments, dict) or not all(map(_is_plain, arguments.values())):
        raise ValueError(f"{path} says {section}.init_args={arguments}: names with plain values are wanted, or lists")
    if "class_path" in spec:
        try:
            find_class(str(spec["class_path"]), *_CLASSES[section])
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None


def _is_plain(value: Any) -> bool:
    """Whether a value names no further class: a number, a text, or a list of such."""
    return all(map(_is_plain, value)) if isinstance(value, list) else not isinstance(value, dict)
