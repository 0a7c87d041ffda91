import importlib.metadata

import pytest
from photochrom.engine import doctor
from photochrom.engine.cli import main


def test_this_machine_is_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    for word in ("photochrom", "torch", "DALI", "JPEG on the CPU", "decoded by DALI", "GPU"):
        assert word in said


def test_a_missing_package_and_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def without(name: str) -> str:
        if name.startswith(("nvidia-dali", "kornia")):
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(doctor, "version", without)
    checks = {check.what: check for check in doctor.run_checks()}
    assert checks["kornia"].verdict == "missing"
    assert checks["kornia"].advice == "pip install kornia"
    assert checks["DALI"].verdict == "missing"
    assert "nvidia-dali-cuda130" in checks["DALI"].advice
    assert main(["doctor"]) == 1
    assert "nvidia-dali-cuda130" in capsys.readouterr().out, "eaten as a colour's name"


def test_a_decoder_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(device: str) -> None:
        raise RuntimeError("libnvjpeg.so.13: cannot open shared object file\nmore")

    monkeypatch.setattr(doctor, "_decode_with_dali", broken)
    check = next(check for check in doctor.run_checks() if check.what == "JPEG on the CPU")
    assert check.verdict == "broken"
    assert check.found == "libnvjpeg.so.13: cannot open shared object file"
