"""Network profiles, predictions, and the verb."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from photochrom.bench.command import main
from photochrom.bench.scale.machines import Precision, Stored, load_machine, load_photograph
from photochrom.bench.scale.network import buckets, segments, vgg
from photochrom.bench.scale.prediction import TrainingJob, predict, ring_seconds
from photochrom.engine.training.flops import flops_per_image
from photochrom.models import VGGColorizer

V100 = load_machine("v100-n1-highmem-16")


@pytest.fixture(scope="module")
def job() -> TrainingJob:
    return TrainingJob(network=vgg(1.0, 256), photograph=load_photograph("packed"), batch=56, images=16_873)


def test_buckets_are_those_that_torch_makes() -> None:
    parameters = list(VGGColorizer().parameters())[::-1]
    groups, _ = dist._compute_bucket_assignment_by_size(parameters, [dist._DEFAULT_FIRST_BUCKET_BYTES, 25 << 20])
    expected = [sum(4 * parameters[i].numel() for i in group) for group in groups]
    gradient_buckets = list(buckets(vgg(1.0, 256).layers))
    assert [bucket.bytes for bucket in gradient_buckets] == expected
    assert sum(bucket.share for bucket in gradient_buckets) == pytest.approx(1)


def test_flops_are_those_that_the_engine_counts() -> None:
    model = VGGColorizer(width=0.125)
    assert vgg(0.125, 64).flops == pytest.approx(flops_per_image(model, 64, torch.device("cpu")), rel=1e-3)
    assert vgg(1.0, 256).flops == pytest.approx(248.7e9, rel=1e-3)
    assert vgg(1.0, 256).gradient_bytes == 4 * 32_155_458


def test_segments_add_up_to_the_step() -> None:
    to_buckets, optimizer = segments(list(buckets(vgg(0.25, 128).layers)), 0.5)
    assert sum(to_buckets) + optimizer == pytest.approx(0.5)


def test_ring_all_reduce_follows_its_formula() -> None:
    bandwidths, latencies = (80e9, 3e9), (1e-6, 1e-5)
    assert ring_seconds(1e9, 1, 1, bandwidths, latencies) == 0
    assert ring_seconds(1e9, 1, 4, bandwidths, latencies) == pytest.approx(8.4e-6 + 6e-6 + 1.5 / 80)
    assert ring_seconds(1e9, 3, 4, bandwidths, latencies) == pytest.approx(8.4e-6 + 18e-6 + 4e-5 + 22 / 12 / 3)
    assert ring_seconds(1e9, 2, 1, bandwidths, latencies) == pytest.approx(8.4e-6 + 2e-5 + 1 / 3)


def test_the_scarce_resource_is_the_bottleneck(job: TrainingJob) -> None:
    def bottleneck(machine: Any = V100, nodes: int = 4, **changes: Any) -> Any:
        return predict(machine, TrainingJob(**{**vars(job), **changes}), nodes, 4)["bottleneck"]

    slow = {"value": 1e-3, "source": "made up"}
    assert bottleneck() == "computing"
    assert bottleneck(photograph=load_photograph("original-recipe")) == "decoding"
    assert bottleneck(changed(V100, network=slow)) == "all-reduce"
    assert bottleneck(changed(V100, disk=slow, memory=slow)) == "storage"


def changed(machine: Any, **figures: dict[str, Any]) -> Any:
    new = {name: type(machine.disk)(**figure) for name, figure in figures.items()}
    return type(machine)(**{**vars(machine), **new})


def test_a_set_in_memory_is_read_once(job: TrainingJob) -> None:
    slow = changed(V100, disk={"value": 1, "source": "made up"})
    ten_epochs = replace(job, epochs=10)
    row = predict(slow, ten_epochs, 1, 4)
    cold, warm = job.images / row["cold_rate(img/s)"], row["epoch(s)"]
    assert cold == pytest.approx(job.images * 69e3 / 1e6, rel=0.1)
    assert 3600 * row["run(h)"] == pytest.approx(cold + 9 * warm)
    never_warm = predict(changed(slow, memory={"value": 1, "source": "x"}), ten_epochs, 1, 4)
    assert 3600 * never_warm["run(h)"] == pytest.approx(10 * cold)


@pytest.mark.parametrize(
    ("name", "stored", "rate"),
    [("h100", "originals", 2200), ("h100", "packed", 20_000), ("a100-a2-highgpu-8g", "originals", 940)],
)
def test_throughput_of_a_device_that_decodes(job: TrainingJob, name: str, stored: Stored, rate: float) -> None:
    """If computing takes no time, throughput is the decoder's over the size of a photograph."""
    machine = changed(load_machine(name), half_peak={"value": 1e9, "source": "made up"})
    row = predict(machine, TrainingJob(**{**vars(job), "photograph": load_photograph(stored)}), 1, 1)
    assert row["rate(img/s)"] == pytest.approx(rate, rel=0.03)


@pytest.mark.parametrize("precision", ["half", "fp32"])
def test_devices_that_never_wait_are_the_ceiling(job: TrainingJob, precision: Precision) -> None:
    row = predict(V100, TrainingJob(**{**vars(job), "precision": precision}), 2, 4)
    assert 90 < row["efficiency(%)"] <= 100
    peak, share = (V100.half_peak, V100.half_attained) if precision == "half" else (V100.fp32_peak, V100.fp32_attained)
    assert peak
    assert share
    assert row["ideal(img/s)"] == pytest.approx(8 * 1e12 * peak.value * share.value / 100 / job.network.flops)


SMALL = ["scale", "--width", "0.0625", "--size", "64", "--gpus", "2", "--nodes", "2"]


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, "--out", str(tmp_path / "scale.json")]) == 0
    results = json.loads((tmp_path / "scale.json").read_text())
    assert results.keys() >= {"machine", "versions", "settings", "rows", "verdict", "predicted_for", "photograph"}
    row = results["rows"][1]
    assert [row["nodes"] for row in results["rows"]] == [1, 2, 4, 8, 16, 32, 64]
    assert (row["nodes"], row["devices"], row["batch"]) == (2, 4, 224)
    assert row["gains"].keys() == {"storage", "decoding", "computing", "all-reduce", "scatter"}
    assert results["predicted_for"]["figures"]["cores"]["source"]
    assert results["verdict"] in capsys.readouterr().out


def test_ceilings_replace_estimates(tmp_path: Path) -> None:
    rows = [{"adds": "network", "median(img/s)": 50.0, "alone(img/s)": None}]
    rows += [{"adds": "decode", "median(img/s)": 40.0, "alone(img/s)": 100.0}]
    settings = {"model": {"init_args": {"width": 0.0625}}, "data": {"size": 64}}
    settings["loader"] = {"threads": None, "backend": "torch"}
    stalls = {
        "rows": rows,
        "settings": settings,
        "machine": {"cores": 8, "device": "cpu"},
        "cold_reading(img/s)": [30.0],
    }
    file, out = tmp_path / "stalls.json", tmp_path / "scale.json"
    file.write_text(json.dumps(stalls))
    assert main([*SMALL, "--ceilings", str(file), "--out", str(out)]) == 0
    row = json.loads(out.read_text())["rows"][1]
    assert row["ideal(img/s)"] == pytest.approx(4 * 50)
    assert row["rate(img/s)"] == pytest.approx(4 * 50, rel=0.1)  # 16 vCPUs decode 200 a second
    assert row["cold_rate(img/s)"] == pytest.approx(2 * 30, rel=0.1)
    with pytest.raises(ValueError, match=r"give --width 0\.0625 --size 64, or measure again"):
        main([*SMALL, "--width", "0.125", "--ceilings", str(file)])
    file.write_text("{}")
    with pytest.raises(ValueError, match="is not a result of bench stalls"):
        main([*SMALL, "--ceilings", str(file)])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--nodes", "0"], "--nodes 0 is not a positive number"),
        (["--size", "100"], "--size 100 is not a multiple of 8"),
        (["--stored", "tape"], "--stored=tape: it should be 'original-recipe', 'originals', 'packed' or 'lab'"),
    ],
)
def test_bad_usage(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        sys.exit(main(["scale", *arguments]))
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--machine", "cpu", "--precision", "half"], "machine cpu has no half_peak(TFLOP/s): use --precision fp32"),
    ],
)
def test_what_cannot_be_predicted(arguments: list[str], sentence: str) -> None:
    with pytest.raises(ValueError, match="--") as error:
        main(["scale", "--width", "0.0625", *arguments])
    assert sentence in str(error.value)
