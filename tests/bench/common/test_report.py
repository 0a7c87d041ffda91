"""bench report, and the description of the machine in results."""

import json
import platform
import subprocess
from pathlib import Path

import photochrom
import pytest
import torch
from photochrom.bench.command import main
from photochrom.bench.common.results import machine


def test_every_result_of_the_source_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report"]) == 0
    printed = capsys.readouterr().out
    folder = Path(photochrom.__file__).parent / "bench" / "results"
    files = list(folder.rglob("*.json"))
    assert len(files) >= 15
    for file in files:
        assert f"## {file.relative_to(folder).with_suffix('')}\n" in printed
        results = json.loads(file.read_text())
        assert results.get("verdict", "") in printed


def test_results_become_markdown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"what": "a|b", "img/s": 1234.5, "nested": [1]}, {"what": "c", "img/s": 0.51234, "more": True}]
    about = {"device": "GPU", "cpu": "CPU", "cores": 4, "torch_threads": 2}
    (tmp_path / "gpu").mkdir()
    (tmp_path / "gpu" / "speed.json").write_text(json.dumps({"machine": about, "rows": rows, "verdict": "fast"}))
    (tmp_path / "train.json").write_text('{"steps": 40}')
    assert main(["report", str(tmp_path)]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert lines == [
        "## gpu/speed",
        "device GPU, cpu CPU, cores 4",
        "| what | img/s | more |",
        "|------|-------|------|",
        "| a\\|b | 1,234 |      |",
        "| c    | 0.512 | True |",
        "fast",
        "## train",
        "| steps |",
        "|-------|",
        "| 40    |",
    ]


def test_a_folder_without_results_and_a_damaged_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no \.json files"):
        main(["report", str(tmp_path)])
    (tmp_path / "torn.json").write_text('{"rows": [')
    with pytest.raises(ValueError, match=r"torn\.json cannot be read as JSON: .*: measure again, or remove it"):
        main(["report", str(tmp_path)])


def test_the_machine_is_named_by_its_processor() -> None:
    cpu = " ".join(machine(torch.device("cpu"))["cpu"].split())
    assert cpu
    if platform.system() == "Linux" and platform.machine() == "x86_64":
        listed = subprocess.run(["lscpu"], env={"LC_ALL": "C"}, capture_output=True, text=True, check=True).stdout
        assert f"Model name: {cpu}" in " ".join(listed.split())
