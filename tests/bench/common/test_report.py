"""All results on one page, also in a real browser."""

import json
import math
import platform
import subprocess
from pathlib import Path
from typing import Any

import photochrom
import pytest
import torch
from photochrom.bench.common.report import ReportConfig
from photochrom.bench.common.results import figures, machine
from photochrom.bench.common.tables import number, table_of
from photochrom.engine.cli import main
from PIL import Image

By = pytest.importorskip("selenium.webdriver.common.by", reason="selenium is not installed").By

KEPT = Path(photochrom.__file__).parent / "bench" / "results"
EVIL = "<script>document.title = 'ran'</script><img src=http://127.0.0.1/x onerror=\"document.title = 'ran'\">"
WIDE = {f"measured_{number}(GiB)": 1.0 / (number + 1) for number in range(20)}


def row(name: str, median: float | None, **more: Any) -> dict[str, Any]:
    spread = {"min(img/s)": median and 0.5 * median, "max(img/s)": median and 1.25 * median}
    return {"what": name, "median(img/s)": median, **spread, **more}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two machines; what they say is markup wherever it can be. Nothing is damaged."""
    folder = tmp_path_factory.mktemp("all") / "results"
    rows = [
        row("half", 1000.0, **WIDE),
        row("whole", 2000.0, versions={"numpy": EVIL}),
        row(EVIL, None),
        row("far", 123456.7),
    ]
    speed = figures(ReportConfig(), torch.device("cpu"), rows, f"half as fast {EVIL}")
    speed["machine"] |= {"cpu": f"A Processor {EVIL}", "cores": 4}
    speed |= {EVIL: EVIL, "again": [{EVIL: 1.0, "unit": "s"}]}
    files = {
        "cpu/speed.json": json.dumps(speed),
        "gpu/run.json": json.dumps({"steps": 40, "loss": 1.23456, "path": EVIL, "nested": {"deep": 2}}),
        "gpu/log.jsonl": '{"step": 1, "loss": 3.5}\n{"step": 2, "loss": 2.5}\n',
        "gpu/probe.txt": f"19 img/s\n{EVIL}\n",
        "gpu/old.csv": "1,2",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    Image.new("RGB", (1080, 264), "orange").save(folder / "cpu" / "speed.png")
    return folder


@pytest.fixture(scope="module")
def report(results: Path) -> Path:
    out = results.parent / "page.html"
    assert main(["bench", "report", str(results), "--out", str(out)]) == 0
    return out


@pytest.fixture
def page(browser: Any, report: Path) -> Any:
    browser.get(report.as_uri())
    return browser


def in_words(report: Path) -> str:
    return " ".join(report.read_text().split())


def test_all_that_is_kept_is_on_the_page(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "page.html"
    assert main(["bench", "report", "--out", str(out)]) == 0
    said, text = capfd.readouterr().out, in_words(out)
    kept = [path for path in KEPT.rglob("*") if path.is_file()]
    assert len(kept) >= 8
    for path in kept:
        assert f"<h3>{path.name.removesuffix('.json')}</h3>" in text or path.suffix == ".png"
    assert text.count("data:image/png;base64,") == sum(path.suffix == ".png" for path in kept)
    benchmarks = sum("rows" in json.loads(path.read_text()) for path in KEPT.rglob("*.json"))
    assert said.startswith(f"{out}: {benchmarks} benchmarks and ")
    assert f"({', '.join(sorted(path.name for path in KEPT.iterdir()))})" in said


def test_the_page_says_everything(report: Path) -> None:
    text = in_words(report)
    assert text.index("half as fast") < text.index("data:image/png") < text.index("2,000")
    assert "Results of different machines are not compared" in text
    assert '2,000 <span class="aside">(1,000 - 2,500)</span>' in text
    for said in ("since they hold more than one value: versions", ", 4 cores", "nested.deep", "1.23", "19 img/s"):
        assert said in text
    assert "<li>gpu/old.csv is of a kind that this page does not know</li>" in text


def test_what_is_damaged_is_named_and_the_rest_shown(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder, out = tmp_path / "results", tmp_path / "page.html"
    (folder / "cpu").mkdir(parents=True)
    whole = json.dumps({"rows": [{"a": 1}], "verdict": "sound", "machine": "\ud800 one"})
    contents = {
        "sound.json": whole.encode(),
        "sound.png": b"\x89PNG\r\n\x1a\n" + bytes(20),
        "torn.json": whole.encode()[:20],
        "binary.json": b"\xff\xfe\x00",
        "deep.json": b"[" * 100_000,
        "log.jsonl": b'{"step": 1}\n{"st',
    }
    for name, content in contents.items():
        (folder / "cpu" / name).write_bytes(content)
    Image.new("RGB", (8, 8)).save(folder / "cpu" / "torn.png")
    (folder / "cpu" / "gone.json").symlink_to("nowhere")
    assert main(["bench", "report", str(folder), "--out", str(out)]) == 1
    said, complaints = capfd.readouterr()
    assert said == f"{out}: 1 benchmark and 0 other files of 1 machine (cpu); 7 files not shown\n"
    assert "sound" in in_words(out)
    assert len(complaints.splitlines()) == 6
    for name, reason in {
        "torn.json": "is damaged: it is no JSON from line 1",
        "binary.json": "is damaged: it is no text",
        "deep.json": "is damaged: it is nested too deeply",
        "log.jsonl": "is damaged: its line 2 is no JSON",
        "sound.png": "is damaged: it is no PNG, or not all of one",
        "gone.json": "cannot be read: No such file or directory",
    }.items():
        assert f"photochrom bench report: {folder / 'cpu' / name} {reason}" in complaints
        assert f"<li>cpu/{name} <strong>{reason}" in in_words(out)
    assert "<li>cpu/torn.png was drawn from figures that are damaged</li>" in in_words(out)


def test_what_is_asked_wrongly(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "page.html"
    out.write_text("as before")
    (tmp_path / "empty").mkdir()
    for folder, sentence in {"none": "is no folder", "empty": "holds no results"}.items():
        assert main(["bench", "report", str(tmp_path / folder), "--out", str(out)]) == 1
        assert f"{tmp_path / folder} {sentence}" in capfd.readouterr().err
    for wrong in (["a", "b"], ["--out", str(tmp_path / "page.txt")], ["--out", str(tmp_path / "none" / "page.html")]):
        with pytest.raises(SystemExit, match="2"):
            main(["bench", "report", *wrong])
    assert out.read_text() == "as before"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (98.86159, "98.9"),
        (1384.618, "1,385"),
        (72416.8, "72,417"),
        (0.0080313, "0.00803"),
        (0.99987, "1.00"),
        (999.96, "1,000"),
        (100.0, "100"),
        (0.0, "0"),
        (-5.3219, "-5.32"),
        (3, "3"),
        (33600, "33,600"),
        (1.5e-7, "1.5e-07"),
        (2e20, "2e+20"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
    ],
)
def test_numbers_have_sensible_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_rows_become_columns() -> None:
    rows = [row("a", 10.0, ok=True, parts=[1]), row("b", None, later=2), {"what": 3, "min(s)": 1.0}]
    table = table_of(rows)
    assert [column.name for column in table.columns] == ["what", "img/s", "ok", "later", "min(s)"]
    assert [column.is_numeric for column in table.columns] == [False, True, False, True, True]
    assert table.left_out == ["parts"]
    texts = [[f"{cell.text} {cell.aside}".strip() for cell in cells] for cells in table.rows]
    assert texts == [["a", "10.0 (5.00 - 12.5)", "true", "-", "-"], ["b", "-", "-", "2", "-"], ["3", *"---", "1.00"]]


def test_bars_are_in_proportion_and_an_outlier_is_broken_off() -> None:
    def bars(*medians: Any) -> list[Any]:
        return [cell.bar for cell in table_of([row("", median) for median in medians]).columns[1].cells]

    small, large = bars(20.0, 80.0)
    assert (small.median, large.median, large.high) == pytest.approx((20, 80, 100))
    assert (small.low, small.high) == pytest.approx((10, 25))
    small, large, far, missing = bars(20.0, 80.0, 801.0, None)
    assert (small.median, large.median, missing) == (pytest.approx(20), pytest.approx(80), None)
    assert far.is_broken
    assert not large.is_broken
    assert not bars(80.0, 799.0)[1].is_broken  # less than 10 times the other
    odd = [0.0, math.nan, math.inf, 10**400, "x", True]
    table = table_of([{f"{which}(s)": value for which in ("median", "min", "max")} for value in odd])
    assert not table.columns[0].has_bars


def test_the_machine_is_named_by_its_processor() -> None:
    found = " ".join(machine(torch.device("cpu"))["cpu"].split())
    assert found
    if platform.system() == "Linux" and platform.machine() == "x86_64":
        listed = subprocess.run(["lscpu"], env={"LC_ALL": "C"}, capture_output=True, text=True, check=True).stdout
        assert f"Model name: {found}" in " ".join(listed.split())


def test_markup_in_results_stays_text(page: Any) -> None:
    assert page.title == "Photochrom: benchmarks"
    assert page.find_elements(By.CSS_SELECTOR, "script, body :not(article, section) > img") == []
    assert [image.get_attribute("src")[:15] for image in page.find_elements(By.TAG_NAME, "img")] == ["data:image/png;"]
    page.execute_script("document.querySelectorAll('details').forEach(fold => fold.open = true)")
    # The verdict, a row, the processor at the top and in the fold, a name and its value, a heading, the train summary,
    # the text; what is nested in a row is left out.
    assert page.find_element(By.TAG_NAME, "body").text.count(EVIL) == 9


def test_nothing_is_fetched(page: Any) -> None:
    fetched = page.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert [name for name in fetched if not name.startswith("data:")] == []
    assert [entry["message"] for entry in page.get_log("browser") if "favicon" not in entry["message"]] == []
    assert page.execute_script("return [...document.images].every(image => image.naturalWidth === 1080)")


@pytest.mark.parametrize("width", [360, 1280])
def test_wide_tables_scroll_in_their_own_box(page: Any, width: int) -> None:
    page.execute_script("document.querySelectorAll('details').forEach(fold => fold.open = true)")
    overhangs = "return [document.documentElement, document.querySelector('article .scroll')]"
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    )
    whole, box = page.execute_script(f"{overhangs}.map(each => each.scrollWidth - each.clientWidth)")
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert whole <= 0
    assert box > 0


def test_bars_have_the_lengths_of_their_medians(page: Any) -> None:
    lengths = [bar.rect["width"] for bar in page.find_elements(By.CSS_SELECTOR, ".bar rect")]
    assert len(lengths) == 3  # and none for what has no median
    assert lengths[1] == pytest.approx(2 * lengths[0], rel=0.02)
    assert len(page.find_elements(By.CSS_SELECTOR, ".bar .gap")) == 1
    number = page.find_element(By.CSS_SELECTOR, "td.number")
    assert number.value_of_css_property("text-align") == "right"


def test_it_is_dark_where_that_is_wanted(page: Any) -> None:
    def paper() -> str:
        return str(page.find_element(By.TAG_NAME, "body").value_of_css_property("background-color"))

    light = paper()
    page.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    )
    dark = paper()
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert (light, dark) == ("rgba(250, 250, 249, 1)", "rgba(28, 25, 23, 1)")
