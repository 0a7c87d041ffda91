"""Reads untrusted JSON and YAML: bounded in bytes, depth and aliases, and validated by types."""

import json
from collections.abc import Callable
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import yaml

from .files import check_regular
from .remote import RemotePath
from .text_file import decode_text

T = TypeVar("T")

MAX_BYTES = 1 << 24  # of a file, unless its reader says otherwise
_MAX_DEPTH = 64  # code that walks nested values is recursive
_MAX_YAML_BYTES = 1 << 16  # PyYAML reads some 30 KB a second
_MAX_COUNT = 1 << 53  # floats hold whole numbers up to it
_ERRORS = (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError)  # PyYAML raises all of them


def read_bytes(path: Path | RemotePath, limit: int = MAX_BYTES) -> bytes:
    """Returns the content of a file. Raises OSError, and ValueError for more than `limit` bytes, pipes and devices."""
    if (size := path.stat().st_size) > limit:
        raise ValueError(f"{path} has {size:,} bytes, and such a file has at most {limit:,}: name another")
    if isinstance(path, RemotePath):
        return path.read_bytes()
    check_regular(path)
    with open(path, "rb") as file:
        return file.read(limit)


def read_json(path: Path | RemotePath, limit: int = MAX_BYTES) -> Any:
    """Returns the content of a JSON file. Raises OSError, and ValueError with one sentence."""
    return parse_json(read_bytes(path, limit), str(path))


def read_yaml(path: Path, limit: int = _MAX_YAML_BYTES) -> Any:
    """Returns the content of a YAML file. Raises OSError, and ValueError with one sentence."""
    return parse_yaml(decode_text(read_bytes(path, limit), str(path)), str(path))


def parse_json(text: str | bytes, name: str) -> Any:
    """Returns the value of a JSON text, which is called `name` in messages. Raises ValueError with one sentence."""
    return _parse(_load_json, text, name, "JSON")


def parse_yaml(text: str, name: str) -> Any:
    """Returns the value of a YAML text as parse_json does. Dates are text."""
    return _parse(_load_yaml, text, name, "YAML")


def _parse(load: Callable[[Any], Any], text: str | bytes, name: str, language: str) -> Any:
    try:
        return load(text)
    except _ERRORS as error:
        raise ValueError(f"{name} cannot be read as {language}: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise ValueError(f"{name} is nested more than {_MAX_DEPTH} levels deep") from None


def _load_json(text: str | bytes) -> Any:
    values = json.loads(text)
    level = [values] if isinstance(values, dict | list) else []
    for _ in range(_MAX_DEPTH):
        level = [item for value in level for item in (value.values() if isinstance(value, dict) else value)]
        level = [item for item in level if isinstance(item, dict | list)]
    if level:
        raise RecursionError
    return values


def _load_yaml(text: str) -> Any:
    return yaml.load(text, _Loader)


def validated(kind: type[T], values: Any, name: str) -> T:
    """Returns plain values as a type, such as a dataclass. Raises ValueError that names the part that does not fit."""
    from pydantic import ValidationError  # slow to import

    try:
        return _adapter(kind).validate_python(values)  # type: ignore[arg-type]  # types are hashable
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        reason = fault["msg"].replace("Input", "it").removeprefix("Value error, ")
        raise ValueError(": ".join((name, *filter(None, [".".join(map(str, fault["loc"]))]), reason))) from None


def check_counts(values: Any, *names: str) -> None:
    """Raises ValueError when a named field, or one of its values by name, is negative, infinite or nan."""
    for name in names:
        value = getattr(values, name)
        for number in value.values() if isinstance(value, dict) else [value]:
            if not 0 <= number < _MAX_COUNT:
                raise ValueError(f"{name} is {number}, not a number from 0")


@cache
def _adapter(kind: Any) -> Any:
    from pydantic import ConfigDict, TypeAdapter

    # A dataclass takes no configuration.
    return TypeAdapter(kind, config=None if is_dataclass(kind) else ConfigDict(arbitrary_types_allowed=True))


class _Loader(yaml.SafeLoader):
    """A SafeLoader of plain values. It counts nodes, those of aliases each time, before it makes anything of them."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._num_nodes = self._depth = 0
        self._max_nodes = 10_000 + len(text)  # a file without aliases never has more
        self._sizes: dict[int, int] = {}  # by the id of a node

    def compose_node(self, parent: Any, index: Any) -> Any:
        before, is_alias = self._num_nodes, self.check_event(yaml.AliasEvent)
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise RecursionError
        node = super().compose_node(parent, index)
        self._depth -= 1
        if is_alias and id(node) not in self._sizes:
            raise yaml.YAMLError("an alias refers to a value that contains it")
        self._num_nodes += self._sizes[id(node)] if is_alias else 1
        if self._num_nodes > self._max_nodes:
            raise yaml.YAMLError("its aliases expand to too many values: write them out")
        self._sizes[id(node)] = self._num_nodes - before
        return node


for _kind in ("timestamp", "value", "binary", "omap", "pairs", "set"):  # a date can be the name of a folder
    yaml.add_constructor(f"tag:yaml.org,2002:{_kind}", yaml.SafeLoader.construct_yaml_str, _Loader)
