import pytest
from photochrom.bench.diagnosis import Circumstances, diagnose
from photochrom.bench.levels import DECODE, LAB, NETWORK, STORAGE, TRANSFER


def here(**changes: object) -> Circumstances:
    usual = {"threads": 4, "cores": 16, "pixels": 200_000.0, "needed_pixels": 100_000.0, "fits": True}
    return Circumstances(**{**usual, "on_gpu": True, "decodes_on_gpu": False, **changes})


GPU = {NETWORK: 1.0, TRANSFER: 1.0, LAB: 1.0, DECODE: 1.0, STORAGE: 1.0}


@pytest.mark.parametrize("binds", [TRANSFER, LAB, DECODE, STORAGE])
def test_what_makes_a_gpu_wait_binds_even_where_the_network_takes_most(binds: str) -> None:
    names = list(GPU)
    seconds = {name: 1.0 if names.index(name) < names.index(binds) else 1.3 for name in names}
    found = diagnose(seconds, here())
    assert found.binds == binds
    assert found.stall == pytest.approx(0.3 / 1.3)
    assert found.shares[binds] == pytest.approx(0.3 / 1.3)
    assert sum(found.shares.values()) == pytest.approx(1)


def test_on_a_cpu_the_larger_part_binds() -> None:
    seconds = {NETWORK: 1.0, LAB: 1.0, DECODE: 1.3, STORAGE: 1.3}
    assert diagnose(seconds, here(on_gpu=False)).binds == NETWORK
    seconds = {NETWORK: 1.0, LAB: 1.6, DECODE: 2.5, STORAGE: 2.5}
    assert diagnose(seconds, here(on_gpu=False)).binds == DECODE  # with Lab, more than the network


def test_noise_is_no_stall() -> None:
    found = diagnose({**GPU, DECODE: 1.06, STORAGE: 1.05}, here())
    assert found.binds == NETWORK
    assert found.shares[STORAGE] == 0
    assert "waiting for data takes 5 % of the time" in found.sentence


def test_a_set_that_does_not_fit_is_read_anew_in_every_epoch() -> None:
    assert diagnose(GPU, here(fits=True), cold=3.0).binds == NETWORK
    assert diagnose(GPU, here(fits=False), cold=3.0).binds == STORAGE
    assert diagnose(GPU, here(fits=False), cold=0.5).binds == NETWORK  # the disk keeps up


def test_what_the_run_does_not_do_is_not_blamed() -> None:
    """A GPU cuts and resizes faster than the CPU that stands for it; a run that caches decodes nothing."""
    assert diagnose({**GPU, LAB: 2.0, DECODE: 1.02, STORAGE: 1.02}, here()).binds == NETWORK
    assert diagnose({**GPU, DECODE: 3.0}, here()).binds == NETWORK


def test_remedies_come_with_what_they_would_bring() -> None:
    """Decoding takes 1 of 2 seconds: half the pixels, a quarter of the threads' work, or none of it."""
    seconds = {**GPU, DECODE: 2.0, STORAGE: 2.0}
    remedies = diagnose(seconds, here()).remedies
    expected = {remedy.what.split(":")[0]: remedy.expected for remedy in remedies}
    assert expected["loader.threads 16"] == pytest.approx(1 / 1.25)
    assert expected["photochrom pack --short-side of 9/8 of data.size"] == pytest.approx(1 / 1.5)
    assert expected["photochrom pack --store lab"] == pytest.approx(1)
    rates = [remedy.expected or 0 for remedy in remedies]
    assert rates == sorted(rates, reverse=True)
    few = diagnose(seconds, here(threads=16, needed_pixels=190_000.0, fits=False)).remedies
    assert [remedy.what.split(":")[0] for remedy in few] == ["photochrom pack --store lab"]
