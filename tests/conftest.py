"""Real photographs for the tests: those that come in scikit-image's wheel."""

import shutil
import signal
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import skimage
import torch
from photochrom.pipelines import PackConfig, ShardSet, pack

# A suite that was started in the background or by nohup would ignore these, and so would the commands it interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

PHOTOGRAPHS = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "motorcycle_left.png",
    "motorcycle_right.png",
    "retina.jpg",
    "rocket.jpg",
)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of nine colour photographs, two of them in a subfolder."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "garage").mkdir()
    for name in PHOTOGRAPHS:
        target = folder / "garage" / name if name.startswith("motorcycle") else folder / name
        shutil.copy(Path(skimage.__file__).parent / "data" / name, target)
    return folder


@pytest.fixture(scope="session")
def shards(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """The nine photographs packed at a short side of 96, in three shards."""
    out = tmp_path_factory.mktemp("packed") / "nine"
    pack(PackConfig(source=photos, out=out, short_side=96, shard_samples=4, workers=2))
    return ShardSet.open(out)


@pytest.fixture(scope="session")
def tolerances() -> dict[torch.dtype, dict[str, float]]:
    """Rounding errors by dtype, for assert_close and assert_allclose; tests of a promised accuracy have their own."""
    return {torch.float64: {"rtol": 1e-9, "atol": 1e-10}, torch.float32: {"rtol": 1e-5, "atol": 1e-6}}


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    """In every run, in any order: a network of a rare seed must not fail a test by rounding."""
    torch.manual_seed(0)


@pytest.fixture
def call_in_fork() -> Callable[[Callable[[], Any]], Any]:
    """Returns a function that calls another one in a forked process; raises TimeoutError if that hangs."""

    def call(function: Callable[[], Any], seconds: float = 60) -> Any:
        context = get_context("fork")
        ours, theirs = context.Pipe()
        process = context.Process(target=lambda: theirs.send(function()))
        process.start()
        try:
            if not ours.poll(seconds):
                raise TimeoutError(f"no answer after {seconds} s")
            return ours.recv()
        finally:
            process.kill()
            process.join()

    return call


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device, and this machine has none"))


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A selenium WebDriver of a Chromium without a window, for http:// and file:// pages; skips where there is none.

    What pages download goes to `browser.downloads`; what they log is in `browser.get_log("browser")`. A test that
    emulates a phone or dark mode puts it back.
    """
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if found is None or driver is None:
        pytest.skip("needs Chromium and chromedriver (Debian: apt install chromium chromium-driver)")
    folder = tmp_path_factory.mktemp("browser")
    options = webdriver.ChromeOptions()
    options.binary_location = found
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for flag in (
        "headless=new",
        "no-sandbox",
        "disable-gpu",
        "disable-dev-shm-usage",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        "no-first-run",
        "window-size=1280,900",
        f"user-data-dir={folder / 'profile'}",
    ):
        options.add_argument(f"--{flag}")
    chromium = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    chromium.downloads = folder / "downloads"
    chromium.execute_cdp_cmd(
        "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(chromium.downloads)}
    )
    try:
        yield chromium
    finally:
        chromium.quit()
