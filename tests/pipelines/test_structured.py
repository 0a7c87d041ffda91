"""Files that are built to exhaust or to confuse their reader."""

import os
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from photochrom.pipelines.structured import parse_json, parse_yaml, read_bytes, read_json, read_yaml, validated

PAIRS = list(pairwise("abcdefghi"))
LISTS = "".join(["a: &a [x,x,x,x,x,x,x,x,x]\n", *(f"{b}: &{b} [{','.join(9 * [f'*{a}'])}]\n" for a, b in PAIRS)])
MERGES = "".join(["a: &a {k: 1}\n", *(f"{b}: &{b} {{<<: [{','.join(9 * [f'*{a}'])}]}}\n" for a, b in PAIRS)])


def refusal(parse: Callable[[str, str], Any], text: str) -> str:
    started = time.process_time()
    with pytest.raises(ValueError, match="mine") as error:
        parse(text, "mine")
    assert time.process_time() - started < 2
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("text", [LISTS, MERGES], ids=["of lists", "of merged mappings"])
def test_an_alias_bomb_is_refused_before_it_grows(text: str) -> None:
    assert len(text) < 500
    assert "its aliases expand to too many values" in refusal(parse_yaml, text)


def test_aliases_in_measure_are_read() -> None:
    assert parse_yaml("a: &a {k: 1, l: 2}\nb: {<<: *a, l: 3}\nc: [*a, *a]", "mine")["b"] == {"k": 1, "l": 3}
    assert "an alias refers to a value that contains it" in refusal(parse_yaml, "a: &a [*a]")


@pytest.mark.parametrize("depth", [65, 1500, 100_000])
@pytest.mark.parametrize("parse", [parse_json, parse_yaml])
def test_deep_nesting_is_refused(parse: Callable[[str, str], Any], depth: int) -> None:
    depth = min(depth, 10_000) if parse is parse_yaml else depth
    assert "is nested more than 64 levels deep" in refusal(parse, "[" * depth + "]" * depth)
    assert parse("[" * 64 + "]" * 64, "mine")


@pytest.mark.parametrize(
    "text",
    [
        *("!!int ''", "!!float ''", "!!bool x", "!!set {a}", "!!omap [a: 1]", "!!python/object/apply:os.mkdir [mark]"),
        *("? [a]\n: b", "a: 1\n---\nb: 2", "9" * 5000, "!mine x", "a: [1", "\x01", "*a"),
    ],
)
def test_yaml_that_is_no_plain_value_is_one_sentence(text: str) -> None:
    assert "cannot be read as YAML: " in refusal(parse_yaml, text)
    assert not Path("mark").exists()


def test_a_date_in_yaml_is_text() -> None:
    assert parse_yaml("out: 2026-11-30", "mine") == {"out": "2026-11-30"}
    assert parse_yaml("out: 2026-13-45", "mine") == {"out": "2026-13-45"}


@pytest.mark.parametrize("read", [read_json, read_yaml, read_bytes])
def test_only_regular_files_of_a_usual_size_are_read(read: Callable[[Path], Any], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with open(tmp_path / "huge", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ValueError, match="huge has 1,099,511,627,776 bytes"):
        read(tmp_path / "huge")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(ValueError, match=f"{path} is a pipe or a device: copy its content"):
            read(path)
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "file").write_text("{}")
    assert read(tmp_path / "link") in ({}, b"{}")


def test_what_does_not_fit_a_type_is_named() -> None:
    with pytest.raises(ValueError, match=r"mine: steps\.1: it should be a valid integer"):
        validated(dict[str, list[int]], {"steps": [1, "x"]}, "mine")
