"""The page in a real browser."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import photochrom
import pytest
from PIL import Image


@pytest.mark.slow
def test_in_a_browser(server: Any, models: list[Path], photos: Path, browser: Any) -> None:
    """A user opens a photograph, moves the slider by keys, switches the model and downloads the result."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    def all_of(selector: str) -> list[Any]:
        return browser.find_elements(By.CSS_SELECTOR, selector)

    def wait(until: Callable[[], Any]) -> None:
        WebDriverWait(browser, 30).until(lambda _: until())

    def shown(*names: str) -> bool:
        return [figure.text for figure in all_of("figure figcaption strong")] == list(names)

    def painted(index: int) -> np.ndarray:
        script = """const image = document.querySelectorAll(".after")[arguments[0]];
            const canvas = document.createElement("canvas");
            canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
            const context = canvas.getContext("2d"); context.drawImage(image, 0, 0);
            return [canvas.width, canvas.height, ...context.getImageData(300, 200, 1, 1).data]"""
        return np.array(browser.execute_script(script, index))

    browser.get(server.url)
    wait(lambda: len(all_of("input[name=model]")) == 3)  # warm, cold, side by side
    (chooser,) = all_of("#file")
    chooser.send_keys(str(photos / "coffee.png"))
    wait(lambda: shown("warm"))
    pixels = np.array(Image.open(photos / "coffee.png").convert("RGB"))
    expected = {path.name: photochrom.load(path).colorize(pixels) for path in models}
    assert list(painted(0)[:2]) == [600, 400]
    assert np.abs(painted(0)[2:5] - expected["warm"][200, 300]).max() <= 1

    (slider,) = all_of("figure input[type=range]")
    slider.send_keys(Keys.HOME)
    clip = "return getComputedStyle(document.querySelector('.before')).clipPath"
    assert browser.execute_script(clip) == "inset(0px 100% 0px 0px)"
    slider.send_keys(*[Keys.ARROW_RIGHT] * 7)
    assert browser.execute_script(clip) == "inset(0px 93% 0px 0px)"
    assert browser.execute_script("return getComputedStyle(document.querySelector('.before')).filter") == "grayscale(1)"

    all_of("input[name=model]")[1].click()
    wait(lambda: shown("cold"))
    assert np.abs(painted(0)[2:5] - expected["cold"][200, 300]).max() <= 1
    assert all_of("figure input[type=range]")[0].get_attribute("value") == "7"
    all_of("input[name=model]")[2].click()
    wait(lambda: shown("warm", "cold"))

    wait(lambda: all_of("figure a.button")[1].text == "Download 600 x 400")
    all_of("figure a.button")[1].click()
    home = browser.downloads / "coffee-cold.png"
    wait(home.exists)
    assert np.abs(np.array(Image.open(home)).astype(int) - expected["cold"]).max() <= 1

    chooser.send_keys(str(models[0] / "model.safetensors"))
    wait(lambda: "Not colorized: the file is not an image" in all_of("#status")[0].text)
    assert all_of("figure") == []
    file = io.BytesIO()
    Image.open(photos / "coffee.png").convert("L").save(file, "TIFF")  # which browsers do not show
    (server_side := browser.downloads / "old.tif").write_bytes(file.getvalue())
    chooser.send_keys(str(server_side))
    wait(lambda: shown("warm", "cold") and len(all_of(".before.derived")) == 2)
    assert [line for line in browser.get_log("browser") if "415" not in line["message"]] == []
    loaded = browser.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert {name.removeprefix("blob:").startswith(server.url) for name in loaded} == {True}
