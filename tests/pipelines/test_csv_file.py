import csv
from pathlib import Path

import numpy as np
import pytest
from photochrom.pipelines.csv_file import write_csv


def test_text_is_no_formula_and_numbers_stay_numbers(tmp_path: Path) -> None:
    names = ['=HYPERLINK("http://x","y")', "+1", "-1.jpg", "@a", "\tb", "\rc", "d\nforged,line", "", "caf\udce9", "a=1"]
    write_csv(
        tmp_path / "a.csv", [("path", "value"), *([name, -0.5] for name in names), ["n", np.float32("-inf"), 10**7]]
    )
    with open(tmp_path / "a.csv", newline="", errors="surrogateescape") as file:
        rows = list(csv.reader(file))
    assert [row[0] for row in rows[1:-1]] == [f"'{name}" for name in names[:6]] + names[6:]
    assert {row[1] for row in rows[1:-1]} == {"-0.5"}
    assert rows[-1] == ["n", "-inf", "10000000"]


@pytest.mark.parametrize("folder", ["pipelines", "engine", "bench"])
def test_all_tables_are_written_by_it(folder: str) -> None:
    root = Path(__file__).parents[2]
    files = [file for file in (root / folder).rglob("*.py") if "import csv\n" in file.read_text()]
    assert [file.name for file in files] == ["csv_file.py"] * (folder == "pipelines")
