"""What a file of results holds, whatever wrote it: a benchmark, a training run, its log, or plain text."""

import base64
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ...engine.console import plural
from .tables import Table, facts, table_of, text_of

Facts = list[tuple[str, str]]

_ABOUT = ("settings", "versions", "machine")  # beside the rows and the verdict, as publishing.figures has them


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One file as the page shows it: what is seen at once, and, under headings, what is folded away."""

    name: str
    verdict: str = ""
    tables: Sequence[Table] = ()
    facts: Sequence[tuple[str, str]] = ()
    folded: Sequence[tuple[str, Facts | Table | str]] = ()
    machine: str = ""
    is_benchmark: bool = False


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A drawing that lies beside figures, as a data URI, and its size in pixels."""

    uri: str
    width: int
    height: int


def read(path: Path, name: str) -> Finding:
    """What a file holds whose suffix is in READERS. Raises ValueError, in half a sentence, for one that is damaged."""
    with _damage():
        return READERS[path.suffix](path.read_text(encoding="utf-8-sig"), name)


def read_picture(path: Path) -> Picture:
    """A PNG. Raises ValueError, in half a sentence, for what is none, or not all of it."""
    with _damage():
        content = path.read_bytes()
        try:
            with Image.open(path, formats=["PNG"]) as image:
                image.load()
        except Exception:  # Pillow's plugins raise every kind
            raise ValueError("it is no PNG, or not all of one") from None
    encoded = base64.b64encode(content).decode()
    return Picture(uri=f"data:image/png;base64,{encoded}", width=image.width, height=image.height)


@contextmanager
def _damage() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror or error}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"is damaged: it is no JSON from line {error.lineno}, column {error.colno} on") from None
    except UnicodeDecodeError:
        raise ValueError("is damaged: it is no text") from None
    except RecursionError:
        raise ValueError("is damaged: it is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"is damaged: {error}") from None


def _json(text: str, name: str) -> Finding:
    found = json.loads(text)
    name = name.removesuffix(".json")
    if isinstance(found, dict) and (_is_table(found.get("rows")) or found.get("rows") == []):
        return _benchmark(found, name)
    if _is_table(found):
        return Finding(name=name, tables=[table_of(found)])
    named = found if isinstance(found, dict) and found else {"value": found}
    return Finding(name=name, facts=list(facts(named)), machine=describe(named.get("machine")))


def _benchmark(found: Mapping[str, Any], name: str) -> Finding:
    more = {key: value for key, value in found.items() if key not in ("rows", "verdict", *_ABOUT)}
    tables = {key: more.pop(key) for key in [*more] if _is_table(more[key])}
    folded = {"more figures": list(facts(more))}
    for title in _ABOUT:
        about = found.get(title) or {}
        folded[title] = list(facts(about if isinstance(about, dict) else {title: about}, exact=True))
    return Finding(
        name=name,
        verdict=text_of(found["verdict"]) if found.get("verdict") else "",
        tables=[table_of(found["rows"]), *(table_of(rows, title) for title, rows in tables.items())],
        folded=[(title, pairs) for title, pairs in folded.items() if pairs],
        machine=describe(found.get("machine")),
        is_benchmark=True,
    )


def describe(machine: Any) -> str:
    """A machine in words, as far as a file of figures says them: its GPU, its processor and the cores of that."""
    if not isinstance(machine, dict):
        return text_of(machine) if machine else ""
    cores, capability = machine.get("cores"), machine.get("cpu_capability")
    said = [
        machine.get("device") if machine.get("device") != "cpu" else None,
        machine.get("cpu"),
        capability,
        plural(cores, "core") if isinstance(cores, int) else cores,
    ]
    return ", ".join(text_of(each) for each in said if each)


def _lines(text: str, name: str) -> Finding:
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            raise ValueError(f"its line {number} is no JSON") from None
    if not _is_table(rows):
        raise ValueError("its lines are no figures with names")
    table = table_of(rows)
    return Finding(name=name, folded=[(table.size, table)])


def _text(text: str, name: str) -> Finding:
    return Finding(name=name, folded=[(plural(len(text.splitlines()), "line"), text)])


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


READERS: dict[str, Callable[[str, str], Finding]] = {".json": _json, ".jsonl": _lines, ".txt": _text}
