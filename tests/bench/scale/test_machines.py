"""Machines and photographs as files, and the errors of invalid ones."""

import json
import re
import statistics
from importlib.resources import files
from pathlib import Path
from typing import get_args

import photochrom
import pytest
import yaml
from photochrom.bench.scale.machines import Stored, known_machines, load_machine, load_photograph
from photochrom.bench.scale.network import vgg

RESULTS = Path(photochrom.__file__).parent / "bench" / "results"


@pytest.mark.parametrize("name", known_machines())
def test_known_machines_are_valid(name: str) -> None:
    machine = load_machine(name)
    assert machine.name == name
    assert machine.about
    assert len(machine.sources()) >= 13
    assert all(len(figure["source"]) > 10 for figure in machine.sources().values())
    assert machine.link.value >= machine.network.value
    assert machine.fp32_attained.value <= 100


def test_the_h100_file_agrees_with_its_measurements() -> None:
    lines = (RESULTS / "h100" / "train-auto-metrics.jsonl").read_text().splitlines()
    rates = [json.loads(line)["throughput(img/s)"] for line in lines]
    machine = load_machine("h100")
    assert machine.half_peak
    assert machine.half_attained
    attained = statistics.median(rates) * vgg(1.0, 256).flops / (1e12 * machine.half_peak.value)
    assert 100 * attained == pytest.approx(machine.half_attained.value, abs=0.2)


def test_the_cpu_file_agrees_with_its_measurements() -> None:
    found = json.loads((RESULTS / "cpu" / "scale-check.json").read_text())
    (row,) = (row for row in found["rows"] if row["processes"] == 2)
    settings, machine = found["settings"], load_machine("cpu")
    flops = vgg(settings["model"]["init_args"]["width"], settings["data"]["size"]).flops
    attained = settings["train"]["batch_size"] * flops / (1e-3 * row["step(ms)"]) / (1e12 * machine.fp32_peak.value)
    assert machine.fp32_attained.value == pytest.approx(100 * attained, rel=0.01)
    assert row["others(cores)"] < 0.05


def test_files_named_as_sources_exist() -> None:
    folder = files("photochrom.bench")
    texts = [
        path.read_text()
        for part in ("scale", "scale/machine_files")
        for path in (Path(str(folder)) / part).glob("*.yaml")
    ]
    named = {name for text in texts for name in re.findall(r"bench/(results/[\w./-]*\w)", text)}
    assert len(named) > 8
    assert [name for name in sorted(named) if not (RESULTS.parent / name).is_file()] == []


@pytest.mark.parametrize("stored", get_args(Stored))
def test_known_photographs_are_valid(stored: Stored) -> None:
    photograph = load_photograph(stored)
    assert photograph.what
    assert 0.1 < photograph.size.value <= 1
    assert 10 < photograph.bytes.value < 1000
    assert 0.1 < photograph.cpu.value < 200


@pytest.mark.parametrize(
    ("stored", "file", "loader", "reads", "key"),
    [
        ("original-recipe", "scale-originals.json", "original", "files", "cpu(ms/image)"),
        ("originals", "scale-originals.json", "DaliLoader", "originals", "cpu(ms/image)"),
        ("packed", "rivals.json", "DaliLoader", "reduced", "cpu(ms/img)"),
        ("lab", "rivals.json", "TorchLoader", "lab_reduced", "cpu(ms/img)"),
    ],
)
def test_photographs_agree_with_their_measurements(
    stored: Stored, file: str, loader: str, reads: str, key: str
) -> None:
    rows = json.loads((RESULTS / "cpu" / file).read_text())["rows"]
    (cost,) = (row[key] for row in rows if (row["loader"], row["reads"]) == (loader, reads))
    cpu = load_photograph(stored).cpu
    assert cpu.value == pytest.approx(cost, rel=0.02)
    assert file in cpu.source


def test_packed_photographs_cost_less() -> None:
    costs = [load_photograph(stored).cpu.value for stored in get_args(Stored)]
    assert costs == sorted(costs, reverse=True)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"corse": {"value": 1, "source": "x"}}, "corse: Extra inputs are not permitted; did you mean cores?"),
        ({"cores": None}, "cores: Input should be a valid dictionary"),
        ({"cores": {"value": 4}}, "cores, source: Field required; a value is {value: NUMBER, source: TEXT}"),
        ({"cores": {"value": 0, "source": "x"}}, "cores, value: Input should be greater than 0"),
        ({"cores": {"value": True, "source": "x"}}, "cores, value: Input should be a valid number"),
        ({"cores": {"value": float("nan"), "source": "x"}}, "cores, value: Input should be "),
        ({"cores": {"value": 4, "source": " "}}, "cores, source: String should have at least 1 character"),
        ({"on_cores": 3}, "on_cores: Input should be a valid boolean"),
    ],
)
def test_an_invalid_key_is_named(change: dict[str, object], sentence: str, tmp_path: Path) -> None:
    values = yaml.safe_load((files("photochrom.bench.scale.machine_files") / "h100.yaml").read_text())
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(values))
    assert load_machine(str(file)).cores.value == 112
    file.write_text(yaml.safe_dump(values | change))
    with pytest.raises(ValueError, match=r"mine\.yaml") as error:
        load_machine(str(file))
    assert f"mine.yaml: {sentence}" in str(error.value)


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    values = yaml.safe_load((files("photochrom.bench.scale.machine_files") / "h100.yaml").read_text())
    del values["network(GB/s)"]
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(values))
    with pytest.raises(ValueError, match=r"mine\.yaml: network\(GB/s\): Field required; a value is"):
        load_machine(str(file))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("h10", "--machine h10 is neither a .yaml file nor a known machine; did you mean h100?"),
        ("nowhere.yaml", "--machine nowhere.yaml cannot be read"),
    ],
)
def test_an_unknown_machine(name: str, sentence: str) -> None:
    with pytest.raises(ValueError, match="--machine") as error:
        load_machine(name)
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("a: [", "cannot be read as YAML: while parsing"), ("- 1", "is not a mapping")],
)
def test_a_file_that_is_not_a_mapping(text: str, sentence: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"mine\.yaml") as error:
        load_machine(str(file))
    assert sentence in str(error.value)


def test_a_file_cannot_run_code(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(f"cores: !!python/object/apply:os.mkdir [{tmp_path / 'made'}]")
    with pytest.raises(ValueError, match=r"mine\.yaml cannot be read as YAML: could not determine a constructor"):
        load_machine(str(file))
    assert not (tmp_path / "made").exists()
