import csv
import html.parser
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import photochrom
import pytest
import torch
from photochrom.engine import evaluate
from photochrom.engine.cli import main
from photochrom.engine.score import gallery, score
from photochrom.losses import L2, ab_histogram
from photochrom.pipelines import DaliLoader, LabBatch, PackConfig, ShardSet, lab_to_rgb, pack
from PIL import Image


@pytest.fixture(scope="module")
def evaluated(trained: Path, shards: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("evaluated") / "out"
    assert main(["evaluate", str(trained), "--data", str(shards.root), "--out", str(out), "--gallery", "3"]) == 0
    return out


def photographs(shards: ShardSet) -> LabBatch:
    return next(iter(DaliLoader(shards, batch_size=9, size=32, train=False)))


def rows(evaluated: Path) -> list[dict[str, str]]:
    with open(evaluated / "trained-on-nine" / "per_image.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_the_figures_are_those_of_the_definitions(evaluated: Path, trained: Path, shards: ShardSet) -> None:
    """Against all photographs in one batch, in NumPy."""
    batch = photographs(shards)
    with torch.inference_mode():
        ab = photochrom.load(trained)(batch.L).ab().double().numpy()
    true = batch.ab.double().numpy()
    (result,) = json.loads((evaluated / "summary.json").read_text())["results"]
    assert result["num_samples"] == 9
    assert result["metrics"]["rmse_ab"] == pytest.approx(math.sqrt(((ab - true) ** 2).mean()), rel=1e-5)
    assert result["baselines"]["grey"]["rmse_ab"] == pytest.approx(math.sqrt((true**2).mean()), rel=1e-5)
    rgb, real = (lab_to_rgb(batch.L, torch.from_numpy(x)).double().numpy() for x in (ab, true))
    psnr = [-10 * math.log10(((p - r) ** 2).mean()) for p, r in zip(rgb, real, strict=True)]
    assert result["metrics"]["psnr"] == pytest.approx(np.mean(psnr), rel=1e-4)
    assert result["metrics"].keys() == {"rmse_ab", "loss", "psnr", "ssim", "auc"}
    assert result["is_training_set"] is True


def test_lab_in_bytes_scores_as_jpegs_do(evaluated: Path, trained: Path, photos: Path, tmp_path: Path) -> None:
    config = PackConfig(source=photos, out=tmp_path / "lab", short_side=96, workers=2, store="lab")
    pack(config, ab_histogram=ab_histogram)
    command = ["evaluate", str(trained), "--data", str(tmp_path / "lab"), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    (result,) = json.loads((tmp_path / "out" / "summary.json").read_text())["results"]
    (other,) = json.loads((evaluated / "summary.json").read_text())["results"]
    assert result["num_samples"] == 9
    assert result["metrics"]["rmse_ab"] == pytest.approx(other["metrics"]["rmse_ab"], rel=0.05)
    assert result["baselines"]["grey"]["rmse_ab"] == pytest.approx(other["baselines"]["grey"]["rmse_ab"], rel=0.05)


def test_every_photograph_has_its_line(evaluated: Path, shards: ShardSet, trained: Path) -> None:
    found = rows(evaluated)
    batch = photographs(shards)
    with torch.inference_mode():
        prediction = photochrom.load(trained)(batch.L)
    for i, row in enumerate(found):
        sample = shards.sample(i)
        assert (row["key"], row["path"], row["class"]) == (sample.key, sample.path, sample.class_name)
        assert float(row["loss"]) == pytest.approx(L2()(prediction[i : i + 1], batch[i : i + 1]).total.item(), rel=1e-4)
        error = (prediction[i : i + 1].ab() - batch.ab[i]).square().mean().sqrt().item()
        assert float(row["rmse_ab"]) == pytest.approx(error, rel=1e-4)
    assert len(found) == 9


def test_the_galleries_show_the_very_best_and_the_very_worst(evaluated: Path, shards: ShardSet, trained: Path) -> None:
    by_loss = sorted(rows(evaluated), key=lambda row: float(row["loss"]))
    folder = evaluated / "trained-on-nine"
    for name, ranked in (("best", by_loss), ("worst", by_loss[::-1])):
        expected = [
            f"{rank:03d}_{row['key']}_{version}.png"
            for rank, row in enumerate(ranked[:3], start=1)
            for version in ("grey", "pred", "real")
        ]
        assert sorted(path.name for path in (folder / name).iterdir()) == expected
    # The right picture beside its prediction, each from the photograph that it is named for.
    batch = photographs(shards)
    keys = [shards.sample(i).key for i in range(9)]
    with torch.inference_mode():
        ab = photochrom.load(trained)(batch.L).ab()
    for path in folder.glob("*/*.png"):
        _, key, version = path.stem.split("_", 1)[0], *path.stem.split("_", 1)[1].rsplit("_", 1)
        i = keys.index(key)
        shown = {"grey": torch.zeros_like(ab[i]), "pred": ab[i], "real": batch.ab[i]}[version]
        rgb = lab_to_rgb(batch.L[i : i + 1], shown[None])[0].permute(1, 2, 0).numpy()
        assert np.abs(np.asarray(Image.open(path)) - rgb * 255).max() < 0.51


class Page(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.alts: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attributes if name in ("src", "href", "srcset", "action")]
        self.alts += [value or "" for name, value in attributes if name == "alt"]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_needs_nothing_from_elsewhere_and_says_what_was_measured(evaluated: Path) -> None:
    source = (evaluated / "report.html").read_text()
    page = Page()
    page.feed(source)
    assert len(page.links) == 1 + 2 * 3 * 3
    assert all(link.startswith("data:image/") for link in page.links)
    assert "url(" not in source
    assert all(page.alts)
    (result,) = json.loads((evaluated / "summary.json").read_text())["results"]
    text = " ".join(page.text.split())
    ours, grey = result["metrics"]["rmse_ab"], result["baselines"]["grey"]["rmse_ab"]
    gain = 100 * (1 - ours / grey)
    assert f"The ab RMSE is {ours:.2f}, {abs(gain):.0f} % {'below' if gain >= 0 else 'above'} the {grey:.2f}" in text
    assert "trained on these very photographs" in text
    assert "so small a set" in text
    assert "squashed to a square of the model's training size, 32 pixels a side" in text


def test_another_set_is_not_called_the_training_set(trained: Path, photos: Path, tmp_path: Path) -> None:
    assert main(["pack", str(photos), str(tmp_path / "other"), "--short-side", "64", "--workers", "1"]) == 0
    command = ["evaluate", str(trained), "--data", str(tmp_path / "other"), "--out", str(tmp_path / "out")]
    assert main([*command, "--crop", "center", "--size", "48"]) == 0
    (result,) = json.loads((tmp_path / "out" / "summary.json").read_text())["results"]
    assert result["is_training_set"] is False
    text = " ".join((tmp_path / "out" / "report.html").read_text().split())
    assert "trained on these very photographs" not in text
    assert "its largest centred square of 48 pixels a side" in text


def test_several_models_on_several_sets(trained: Path, shards: ShardSet, tmp_path: Path) -> None:
    other = trained / "checkpoints" / "step-00000010"
    command = ["evaluate", str(trained), str(other), "--data", str(shards.root), str(shards.root)]
    assert main([*command, "--out", str(tmp_path / "out"), "--gallery", "1"]) == 0
    results = json.loads((tmp_path / "out" / "summary.json").read_text())["results"]
    assert [result["checkpoint"] for result in results] == [str(trained)] * 2 + [str(other)] * 2
    folders = sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_dir())
    assert folders == [
        "step-00000010-on-nine",
        "step-00000010-on-nine-2",
        "trained-on-nine",
        "trained-on-nine-2",
    ]


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_scores_do_not_depend_on_the_batches(trained: Path, shards: ShardSet, batch_size: int) -> None:
    model = photochrom.load(trained)
    one, other = (
        score(model, L2(), DaliLoader(shards, batch_size=size, size=32, train=False)) for size in (9, batch_size)
    )
    assert other.index.tolist() == list(range(9))
    for name in one.model:
        torch.testing.assert_close(other.model[name], one.model[name], rtol=1e-4, atol=1e-4)


def test_small_sets_have_small_galleries(trained: Path, shards: ShardSet) -> None:
    for samples, size in (([0], 1), ([0, 1, 2], 1), (list(range(9)), 4)):
        loader = DaliLoader(shards, batch_size=9, size=32, train=False, samples=samples)
        best, worst = gallery(score(photochrom.load(trained), L2(), loader), 12)
        assert len(best) == len(worst) == size


def test_two_ranks_score_as_one(trained: Path, shards: ShardSet, evaluated: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [
        "-m",
        "photochrom",
        "evaluate",
        str(trained),
        "--data",
        str(shards.root),
        "--out",
        str(tmp_path / "out"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, "--batch-size", "4"], capture_output=True, text=True, env=environment, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("report.html") == 1
    (ours,) = json.loads((tmp_path / "out" / "summary.json").read_text())["results"]
    (expected,) = json.loads((evaluated / "summary.json").read_text())["results"]
    assert ours["num_samples"] == 9
    assert ours["metrics"] == pytest.approx(expected["metrics"], rel=1e-5)
    assert ours["baselines"]["grey"] == pytest.approx(expected["baselines"]["grey"], rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere", "--data", "SHARDS"], "there is no checkpoint at nowhere"),
        (["RUN", "--data", "nowhere"], "there is no shard set at nowhere"),
        (["RUN", "--data", "SHARDS", "--size", "200"], "crops of 200 pixels are larger than every photograph"),
        (["RUN", "--data", "SHARDS", "--precision", "fp16", "--device", "cpu"], "precision=fp16 needs a GPU"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    trained: Path,
    shards: ShardSet,
    tmp_path: Path,
    arguments: list[str],
    sentence: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"RUN": str(trained), "SHARDS": str(shards.root)}
    out = tmp_path / "out"
    assert main(["evaluate", *(places.get(word, word) for word in arguments), "--out", str(out)]) == 1
    error = capsys.readouterr().err
    assert sentence in error
    assert len(error.splitlines()) == 1
    assert not out.exists()


def test_each_result_is_kept_when_a_later_one_fails(
    trained: Path, shards: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "out"
    command = ["evaluate", str(trained), "--data", str(shards.root), str(shards.root), "--out", str(out)]
    with monkeypatch.context() as patch:
        patch.setattr("photochrom.engine.report._write_pictures", stop)
        assert main(command) == 130
        assert not out.exists()
    whole = evaluate.write_result
    monkeypatch.setattr(
        evaluate, "write_result", lambda result, to: (stop if (to / "summary.json").exists() else whole)(result, to)
    )
    assert main(command) == 130
    assert {path.name for path in out.iterdir()} == {"trained-on-nine", "report.html", "summary.json", "config.yaml"}
    assert len(json.loads((out / "summary.json").read_text())["results"]) == 1


def test_names_that_are_no_text(trained: Path, photos: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    name = os.fsdecode(b"caf\xe9 <b>.png")  # Latin-1 on a UTF-8 system
    (source / name).write_bytes((photos / "coffee.png").read_bytes())
    assert main(["pack", str(source), str(tmp_path / "shards"), "--short-side", "64", "--workers", "1"]) == 0
    assert ShardSet.open(tmp_path / "shards").sample(0).path == name
    out = tmp_path / "out"
    assert main(["evaluate", str(trained), "--data", str(tmp_path / "shards"), "--out", str(out)]) == 0
    assert "caf? &lt;b&gt;.png" in (out / "report.html").read_text()
    assert b"caf\xe9 <b>.png" in (out / "trained-on-shards" / "per_image.csv").read_bytes()
    assert main(["colorize", str(trained), str(source), "--out", str(tmp_path / "colorized")]) == 0
    assert (tmp_path / "colorized" / name).exists()


def test_a_folder_in_use_is_left_alone(trained: Path, shards: ShardSet, tmp_path: Path) -> None:
    (tmp_path / "diary.txt").write_text("dear")
    assert main(["evaluate", str(trained), "--data", str(shards.root), "--out", str(tmp_path)]) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["diary.txt"]
