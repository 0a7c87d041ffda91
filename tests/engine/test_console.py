import io
import os
import sys
from pathlib import Path

import pytest
from photochrom.engine import cli
from photochrom.engine.console import SafeConsole, console, escape, one_line, print_table, progress_bar, say
from rich.table import Table

NAME = "a\x1b[31m\u202egpj.exe\n[red]photochrom: done :cat: \udce9\x9b\x07\u2028[/]"
SHOWN = r"a\x1b[31m\u202egpj.exe\n[red]photochrom: done :cat: \udce9\x9b\x07\u2028[/]"


def test_what_is_not_printable_is_escaped() -> None:
    assert escape(NAME) == SHOWN
    assert escape("Grüße 写真 🎨 50 % [1] {x} \\n") == "Grüße 写真 🎨 50 % [1] {x} \\n"
    assert escape("http://me:pw@host/a?sig=1 cannot be reached") == "http://host/a cannot be reached"


def test_results_messages_tables_and_bars(capsys: pytest.CaptureFixture[str]) -> None:
    say(Path(NAME))
    console.print(f"not colorized: {NAME}")
    table = Table("", NAME)
    table.add_row(NAME, "x")
    print_table(table, width=1000)
    with progress_bar(NAME) as update:
        update(1, 2)
    output = capsys.readouterr()
    assert output.out.splitlines()[0] == SHOWN
    assert output.err == f"not colorized: {SHOWN}\n"
    assert output.out.count(SHOWN) == 3
    assert not {"\x1b", "\u202e", "\x9b", "\x07"} & set(output.out + output.err)


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rich's own columns would read the name as markup, and end at [/]."""
    terminal = SafeConsole(file=io.StringIO(), force_terminal=True, width=300)
    monkeypatch.setattr("photochrom.engine.console.console", terminal)
    with progress_bar(NAME, "frames") as update:
        update(1, 2)
    assert "\\x1b[31m" in terminal.file.getvalue()  # type: ignore[attr-defined]
    assert "\u202e" not in terminal.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("has_traceback", ["", "1"])
def test_errors_of_verbs(
    has_traceback: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHOTOCHROM_TRACEBACK", has_traceback)
    name = str(tmp_path / NAME)
    assert cli.main(["verify", name]) == 1
    assert cli.main([NAME]) == 2
    with pytest.raises(SystemExit):
        cli.main(["pack", "a", "b", NAME])
    with pytest.raises(SystemExit):
        cli.main(["pack", "a", "b", "--short-side", NAME])
    error = capsys.readouterr().err
    assert not {"\x1b", "\u202e", "\x9b", "\x07", "\udce9"} & set(error)
    assert error.count("\\u202egpj.exe") >= 4
    if not has_traceback:
        assert not [line for line in error.splitlines() if line.startswith("[red]")]


def test_a_terminal_without_the_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    assert cli.main(["models"]) == 0
    say("ü")
    sys.stdout.flush()
    assert raw.getvalue().endswith(f"\\xfc{os.linesep}".encode())


def test_messages_of_libraries_are_one_line() -> None:
    assert one_line("  in line 1:\n\n    a  b\n") == "in line 1: a  b"
