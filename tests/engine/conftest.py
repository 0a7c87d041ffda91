import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from photochrom.engine.config import (
    CheckpointConfig,
    DataConfig,
    LoaderConfig,
    LogConfig,
    OptimConfig,
    RunConfig,
    Spec,
    TrainConfig,
)
from photochrom.engine.run import train
from photochrom.pipelines import ShardSet

Configure = Callable[..., RunConfig]


@pytest.fixture(scope="session")
def configure(shards: ShardSet) -> Configure:
    """Makes the configuration of a run of seconds; dotted settings override it."""

    def make(out: Path, **settings: Any) -> RunConfig:
        sections: dict[str, dict[str, Any]] = {
            "data": {"train": shards.root, "size": 32},
            "optim": {"lr": 1e-4},
            "loader": {"threads": 1},
            "train": {"steps": 20, "batch_size": 4, "device": "cpu", "precision": "fp32"},
            "checkpoint": {"every": 10},
            "log": {"every": 1, "preview_every": 10, "validate_every": 10, "num_previews": 2},
        }
        whole: dict[str, Any] = {"out": out, "model": Spec(class_path="VGGColorizer", init_args={"width": 0.0625})}
        for name, value in settings.items():
            section, _, key = name.partition("__")
            if key:
                sections[section][key] = value
            else:
                whole[name] = value
        return RunConfig(
            data=DataConfig(**sections["data"]),
            optim=OptimConfig(**sections["optim"]),
            loader=LoaderConfig(**sections["loader"]),
            train=TrainConfig(**sections["train"]),
            checkpoint=CheckpointConfig(**sections["checkpoint"]),
            log=LogConfig(**sections["log"]),
            **whole,
        )

    return make


@pytest.fixture(scope="session")
def trained(configure: Configure, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of 20 steps, validated on its own photographs."""
    out = tmp_path_factory.mktemp("runs") / "trained"
    config = configure(out)
    train(configure(out, data__val=config.data.train))
    return out


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
