"""The report of an evaluation in a real browser."""

from pathlib import Path
from typing import Any

import pytest
from photochrom.engine.cli import main

By = pytest.importorskip("selenium.webdriver.common.by", reason="selenium is not installed").By
pytestmark = pytest.mark.slow
Keys = pytest.importorskip("selenium.webdriver.common.keys").Keys


@pytest.fixture(scope="module")
def report(trained: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Evaluates a set with two classes; the name of one is HTML markup."""
    folder = tmp_path_factory.mktemp("report")
    for number, path in enumerate(sorted(photos.rglob("*.*"))):
        target = folder / "in" / ("b <img src=x onerror=alert(1)>" if number < 3 else "a")
        target.mkdir(parents=True, exist_ok=True)
        (target / path.name).write_bytes(path.read_bytes())
    assert main(["pack", str(folder / "in"), str(folder / "set"), "--short-side", "64", "--workers", "1"]) == 0
    command = ["evaluate", str(trained), "--data", str(folder / "set"), "--out", str(folder / "out"), "--gallery", "2"]
    assert main(command) == 0
    return folder / "out" / "report.html"


@pytest.fixture
def page(browser: Any, report: Path) -> Any:
    browser.get(report.as_uri())
    return browser


def complaints(page: Any) -> list[str]:
    """Returns the messages in the browser's console, except for the missing favicon."""
    return [entry["message"] for entry in page.get_log("browser") if "favicon" not in entry["message"]]


def covered(page: Any, version: str) -> float:
    """Returns how many per cent of the first image's width a version covers in the browser."""
    clip = page.find_element(By.CSS_SELECTOR, f".stage .{version}").value_of_css_property("clip-path")
    values = [part for part in clip.removeprefix("inset(").removesuffix(")").split() if part != "0px"]
    return 100 - float(values[0].removesuffix("%")) if values else 100


def test_the_slider_goes_from_grey_over_the_prediction_to_the_truth(page: Any) -> None:
    slider = page.find_element(By.CSS_SELECTOR, "figure input")
    assert (covered(page, "pred"), covered(page, "real")) == (100, 0)
    slider.send_keys(Keys.HOME)
    assert (covered(page, "pred"), covered(page, "real")) == (0, 0)
    for _ in range(3):
        slider.send_keys(Keys.ARROW_RIGHT)
    assert covered(page, "pred") == pytest.approx(3)
    slider.send_keys(Keys.END)
    assert (covered(page, "pred"), covered(page, "real")) == (100, 100)
    assert "to the truth" in slider.accessible_name
    assert complaints(page) == []


def test_one_slider_moves_all(page: Any) -> None:
    page.find_element(By.ID, "all").send_keys(Keys.END)
    values = {slider.get_attribute("value") for slider in page.find_elements(By.CSS_SELECTOR, "figure input")}
    assert values == {"200"}
    assert covered(page, "real") == 100


def test_side_by_side(page: Any) -> None:
    page.find_element(By.CSS_SELECTOR, "[value=side]").click()
    grey, pred, real = page.find_elements(By.CSS_SELECTOR, "figure:first-of-type .stage img")[:3]
    assert grey.location["x"] < pred.location["x"] < real.location["x"]
    assert grey.location["y"] == real.location["y"]
    assert not page.find_element(By.CSS_SELECTOR, "figure input").is_displayed()


def test_classes_are_sorted_by_a_heading(page: Any) -> None:
    def first_cells() -> list[str]:
        return [cell.text for cell in page.find_elements(By.CSS_SELECTOR, "table.sorts tbody th")]

    evil = "b <img src=x onerror=alert(1)>"
    assert first_cells() == ["a", evil]
    photographs = page.find_elements(By.CSS_SELECTOR, "table.sorts th button")[1]
    photographs.send_keys(Keys.ENTER)
    assert first_cells() == [evil, "a"]  # 3 of 9
    photographs.send_keys(Keys.ENTER)
    assert first_cells() == ["a", evil]
    heading = page.find_elements(By.CSS_SELECTOR, "table.sorts thead th")[1]
    assert heading.get_attribute("aria-sort") == "descending"


@pytest.mark.parametrize("width", [360, 1280])
def test_it_fits_a_phone(page: Any, width: int) -> None:
    page.set_window_size(width, 800)
    overhang = page.execute_script("return document.documentElement.scrollWidth - document.documentElement.clientWidth")
    page.set_window_size(1280, 800)
    assert overhang <= 0
    assert page.execute_script("return [...document.images].every(i => i.loading === 'lazy' || i.naturalWidth > 0)")


def test_nothing_is_fetched(page: Any) -> None:
    fetched = page.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert [name for name in fetched if not name.startswith("data:")] == []
