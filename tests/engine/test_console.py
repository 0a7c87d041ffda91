import pytest
from photochrom.engine import console


def test_without_a_terminal_a_line_is_printed_every_minute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(console.time, "monotonic", lambda: now)
    with console.progress_bar("packing") as update:
        for done in range(5):
            update(1000 * done, 4000, "files")
            now += 25
        now += 100
        update(7, None, "MiB")
    with console.progress_bar("packing", enabled=False) as update:
        now += 100
        update(1, 2, "files")
    assert capsys.readouterr().err.splitlines() == ["packing: 3,000 of 4,000 files", "packing: 7 MiB"]
