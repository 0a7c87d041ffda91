from dataclasses import fields

import pytest
from photochrom.bench.command import VERBS as BENCHES
from photochrom.bench.stalls.diagnosis import Recommendation, SystemInfo, diagnose
from photochrom.bench.stalls.feed_stages import DECODE, LAB, NETWORK, STORAGE, TRANSFER
from photochrom.engine.cli import VERBS
from photochrom.engine.configuration.config import DataConfig, LoaderConfig
from photochrom.pipelines import PackConfig


def system(**changes: object) -> SystemInfo:
    usual = {
        "threads": 4,
        "cores": 16,
        "pixels": 200_000.0,
        "needed_pixels": 100_000.0,
        "fits": True,
        "fits_decoded": True,
    }
    return SystemInfo(**{**usual, "on_gpu": True, "decodes_on_gpu": False, **changes})


GPU = {NETWORK: 1.0, TRANSFER: 1.0, LAB: 1.0, DECODE: 1.0, STORAGE: 1.0}


@pytest.mark.parametrize("bottleneck", [TRANSFER, LAB, DECODE, STORAGE])
def test_a_gpu_s_largest_stall_is_the_bottleneck(bottleneck: str) -> None:
    names = list(GPU)
    seconds = {name: 1.0 if names.index(name) < names.index(bottleneck) else 1.3 for name in names}
    found = diagnose(seconds, system())
    assert found.bottleneck == bottleneck
    assert found.stall == pytest.approx(0.3 / 1.3)
    assert found.shares[bottleneck] == pytest.approx(0.3 / 1.3)
    assert sum(found.shares.values()) == pytest.approx(1)


def test_on_a_cpu_the_larger_part_is_the_bottleneck() -> None:
    seconds = {NETWORK: 1.0, LAB: 1.0, DECODE: 1.3, STORAGE: 1.3}
    assert diagnose(seconds, system(on_gpu=False)).bottleneck == NETWORK
    seconds = {NETWORK: 1.0, LAB: 1.6, DECODE: 2.5, STORAGE: 2.5}
    assert diagnose(seconds, system(on_gpu=False)).bottleneck == DECODE  # with Lab, more than the network


def test_noise_is_not_a_stall() -> None:
    found = diagnose({**GPU, DECODE: 1.06, STORAGE: 1.05}, system())
    assert found.bottleneck == NETWORK
    assert found.shares[STORAGE] == 0
    assert "5 % of the time waiting for data" in found.sentence


def test_a_set_that_does_not_fit_is_read_in_every_epoch() -> None:
    assert diagnose(GPU, system(fits=True), cold=3.0).bottleneck == NETWORK
    assert diagnose(GPU, system(fits=False), cold=3.0).bottleneck == STORAGE
    assert diagnose(GPU, system(fits=False), cold=0.5).bottleneck == NETWORK  # the disk keeps up


def test_work_that_the_run_does_not_do_is_not_a_stall() -> None:
    """A GPU cuts faster than the CPU that measures the Lab stage; a run that caches decodes nothing."""
    assert diagnose({**GPU, LAB: 2.0, DECODE: 1.02, STORAGE: 1.02}, system()).bottleneck == NETWORK
    assert diagnose({**GPU, DECODE: 3.0}, system()).bottleneck == NETWORK


def expected(recommendations: list[Recommendation]) -> dict[str, float | None]:
    return {recommendation.what.split(":")[0]: recommendation.expected for recommendation in recommendations}


def test_recommendations_have_the_expected_throughput() -> None:
    """Decoding takes 1 of 2 seconds on a CPU: with half the pixels, four times the threads, or without it."""
    seconds = {**GPU, DECODE: 2.0, STORAGE: 2.0}
    remedies = diagnose(seconds, system(on_gpu=False)).remedies
    found = expected(remedies)
    assert found["loader.threads 16"] == pytest.approx(1 / 1.25)
    assert found["photochrom pack --short-side of 9/8 of data.size"] == pytest.approx(1 / 1.5)
    assert found["photochrom pack --store lab"] == pytest.approx(1)
    rates = [remedy.expected or 0 for remedy in remedies]
    assert rates == sorted(rates, reverse=True)
    few = diagnose(seconds, system(on_gpu=False, threads=16, needed_pixels=190_000.0, fits_decoded=False)).remedies
    assert [remedy.what.split(":")[0] for remedy in few] == ["photochrom pack --store lab"]


def test_a_gpu_computes_while_others_decode() -> None:
    """The run takes the longer of computing (1) and decoding (4 or 1.5 instead of 6)."""
    seconds, alone = {**GPU, DECODE: 6.0, STORAGE: 6.0}, {DECODE: 6.0, STORAGE: 6.0}
    found = expected(diagnose(seconds, system(needed_pixels=400_000 / 3, fits_decoded=False), alone=alone).remedies)
    assert found["loader.threads 16"] == pytest.approx(1 / 1.5)
    assert found["photochrom pack --short-side of 9/8 of data.size"] == pytest.approx(1 / 4)
    assert found["photochrom pack --store lab"] == pytest.approx(1)
    assert found["loader.backend dali"] is None
    fast = expected(diagnose({**GPU, DECODE: 2.0, STORAGE: 2.0}, system(), alone={DECODE: 2.0}).remedies)
    assert fast["loader.threads 16"] == pytest.approx(1), "no faster than the network"


def test_recommended_commands_exist() -> None:
    for bottleneck in (NETWORK, TRANSFER, LAB, DECODE, STORAGE):
        seconds = {name: 1.0 if list(GPU).index(name) < list(GPU).index(bottleneck) else 9.0 for name in GPU}
        for remedy in diagnose(seconds, system()).remedies:
            match remedy.what.split(":")[0].split():
                case ["photochrom", "bench", verb]:
                    assert verb in BENCHES
                case ["photochrom", verb, option, *_]:
                    assert verb in VERBS
                    assert hasattr(PackConfig, option.removeprefix("--").replace("-", "_"))
                case [setting, *_] if setting.split(".")[0] in ("loader", "data"):
                    section = {"loader": LoaderConfig, "data": DataConfig}[setting.split(".")[0]]
                    assert setting.split(".")[1] in {field.name for field in fields(section)}
