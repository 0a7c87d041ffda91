import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from photochrom.engine.checkpoints.model_file import read_metadata
from photochrom.engine.configuration.config import ClassSpec, ModelSpec, to_plain_dict
from photochrom.engine.configuration.registry import build_loss
from photochrom.engine.training.run import train
from photochrom.losses import L2, LossOutput, rebalancing_weights
from photochrom.pipelines import ShardSet
from photochrom.pipelines.files import exclusive_lock
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model.safetensors")


def same(one: Path, other: Path) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def metrics(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def losses(run: Path) -> list[float]:
    return [line["train/loss"] for line in metrics(run) if "train/loss" in line]


def test_a_golden_run_repeats_bit_for_bit(configure, tmp_path: Path) -> None:
    train(configure(tmp_path / "one"))
    train(configure(tmp_path / "two"))
    assert same(tmp_path / "one", tmp_path / "two")
    assert losses(tmp_path / "one") == losses(tmp_path / "two")
    train(configure(tmp_path / "three", train__seed=1))
    assert not same(tmp_path / "one", tmp_path / "three")


def test_the_golden_run_has_the_losses_it_always_had(trained: Path) -> None:
    """A change of these numbers is a change of what the engine computes: say why, and show a curve.

    With SSE4.1 in place of AVX2, or one thread in place of two, rounding adds up to less than 1e-3 in 20 steps.
    """
    golden = json.loads((Path(__file__).parent / "golden.json").read_text())
    assert losses(trained) == pytest.approx(golden, rel=5e-3)


def test_a_run_that_was_stopped_ends_with_the_same_weights(configure, trained: Path, tmp_path: Path) -> None:
    train(configure(tmp_path / "run", train__steps=10))
    train(configure(tmp_path / "run"))
    assert same(tmp_path / "run", trained)
    assert [line["step"] for line in metrics(tmp_path / "run")] == list(range(1, 21))


def test_a_run_that_lost_its_last_steps_repeats_them(configure, trained: Path, tmp_path: Path) -> None:
    """As after a kill at step 17: the checkpoint is older than the log."""
    out = tmp_path / "run"
    train(configure(out, train__steps=17))
    for name in ("model.safetensors", "summary.json"):
        (out / name).unlink()
    for path in sorted((out / "checkpoints" / "step-00000017").iterdir()):
        path.unlink()
    (out / "checkpoints" / "step-00000017").rmdir()
    with open(out / "metrics.jsonl", "a") as file:
        file.write('{"step": 18, "train/lo')
    train(configure(out))
    assert same(out, trained)
    assert [line["step"] for line in metrics(out)] == list(range(1, 21))
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == list(range(1, 21))


def test_a_run_resumes_from_a_named_checkpoint(configure, trained: Path, tmp_path: Path) -> None:
    named = trained / "checkpoints" / "step-00000010"
    train(configure(tmp_path / "other", resume=str(named)))
    assert same(tmp_path / "other", trained)


def test_going_back_in_one_s_own_folder_removes_nothing_whole(configure, trained: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    settings = {"resume": str(run / "checkpoints" / "step-00000010"), "data__val": configure(run).data.train}
    with pytest.raises(ValueError, match=r"step-00000020 is later than step 10, from which the run is to resume"):
        train(configure(run, **settings))
    assert same(run, trained)
    shutil.rmtree(run / "checkpoints" / "step-00000020")
    train(configure(run, **settings))
    assert same(run, trained)
    assert sorted(path.name for path in (run / "previews").iterdir()) == ["step-00000010.jpg", "step-00000020.jpg"]
    assert [line["step"] for line in metrics(run) if "train/loss" in line] == list(range(1, 21))


def test_going_on_takes_back_what_came_later(configure, trained: Path, tmp_path: Path) -> None:
    """The results of the whole run, and previews of steps that will be repeated."""
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    (run / "checkpoints" / "step-00000020" / "state.json").write_text("{")

    class Stopped(Exception):
        pass

    def stop(*_: object) -> None:
        raise Stopped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("photochrom.engine.training.run.fit", stop)
        with pytest.raises(Stopped):
            train(configure(run))
    assert {path.name for path in run.iterdir()} & {"model.safetensors", "summary.json"} == set()
    assert [path.name for path in (run / "previews").iterdir()] == ["step-00000010.jpg"]
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-00000010"]


def test_a_run_that_was_stopped_before_its_results_were_written_gets_them(
    configure, trained: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    expected = json.loads((run / "summary.json").read_text())
    (run / "model.safetensors").unlink()
    (run / "summary.json").unlink()
    summary = train(configure(run))
    assert same(run, trained)
    ours = {"checkpoint": str(run / "model.safetensors"), "provenance": summary["provenance"]}
    assert summary == {**expected, **ours}


def test_the_summary_covers_the_whole_run(configure, tmp_path: Path) -> None:
    before = train(configure(tmp_path / "run", train__steps=10))
    after = train(configure(tmp_path / "run"))
    assert (before["images"], after["images"]) == (40, 80)
    assert after["seconds"] > before["seconds"]


def test_a_run_without_checkpoints_cannot_be_resumed(configure, tmp_path: Path) -> None:
    (tmp_path / "young" / "checkpoints").mkdir(parents=True)
    with pytest.raises(ValueError, match="young has no checkpoint yet: name another"):
        train(configure(tmp_path / "run", resume=str(tmp_path / "young")))
    assert not (tmp_path / "run").exists()


def test_a_run_does_not_mix_with_another(configure, trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(configure(run, train__steps=5))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="already holds a run: name another --out, or continue it with --resume auto"):
        train(configure(run, resume=str(trained)))
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_the_results_of_other_verbs_are_no_run(configure, shards, tmp_path: Path) -> None:
    packed = Path(shutil.copytree(shards.root, tmp_path / "packed"))
    for name in ("config.yaml", "summary.json"):
        (packed / name).write_text("{}")
    with pytest.raises(ValueError, match=r"is not empty .* and holds no run: name a new folder"):
        train(configure(packed))
    assert (packed / "config.yaml").read_text() == (packed / "summary.json").read_text() == "{}"


def test_a_run_belongs_to_one_command_at_a_time(configure, trained: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    with exclusive_lock(run), pytest.raises(ValueError, match="another process is writing to"):
        train(configure(run, train__steps=21))
    assert same(run, trained)
    assert metrics(run) == metrics(trained)


def test_a_run_that_lost_its_config_is_still_one(configure, trained: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    (run / "config.yaml").unlink()
    with pytest.raises(ValueError, match="already holds a run"):
        train(configure(run, resume="never"))
    assert train(configure(run, train__steps=21))["steps"] == 21


def test_the_loss_falls(configure, tmp_path: Path) -> None:
    train(configure(tmp_path / "run", train__steps=60, train__batch_size=9, optim__lr=1e-3, log__every=10))
    first, *_, last = losses(tmp_path / "run")
    assert last < 0.8 * first


def test_what_a_run_leaves_behind(trained: Path, configure) -> None:
    assert {path.name for path in trained.iterdir()} == {
        "checkpoints",
        "config.yaml",
        "metrics.jsonl",
        "model.safetensors",
        "previews",
        "summary.json",
        "tensorboard",
    }
    checkpoints = sorted(path.name for path in (trained / "checkpoints").iterdir())
    assert checkpoints == ["step-00000010", "step-00000020"]
    for preview in ("step-00000010.jpg", "step-00000020.jpg"):
        assert Image.open(trained / "previews" / preview).size == (3 * 32 + 2 * 4, 2 * 32 + 4)
    summary = json.loads((trained / "summary.json").read_text())
    assert summary["steps"] == 20
    assert summary["images"] == 80
    assert summary["epochs"] == pytest.approx(80 / 9)
    assert summary["images_per_second"] > 0
    assert 0 <= summary["data_wait_percent"] <= 100
    assert summary["loss"] == losses(trained)[-1]
    assert summary["checkpoint"] == str(trained / "model.safetensors")
    assert summary["provenance"].keys() == {"commit", "dirty", "command", "time"}
    assert read_metadata(trained / "model.safetensors").provenance == summary["provenance"]


def test_metrics_carry_their_units(trained: Path) -> None:
    lines = metrics(trained)
    assert [line["step"] for line in lines if "train/loss" in line] == list(range(1, 21))
    rates = {"throughput(img/s)", "throughput/device(img/s)", "time/data_wait(%)", "time/eta(s)"}
    assert lines[0].keys() == {"step", "train/loss", "epoch", "optim/lr", "optim/grad_norm"} | rates
    left = [line["time/eta(s)"] for line in lines if "time/eta(s)" in line]
    assert left[-1] == 0 < left[-2]
    validations = [line for line in lines if "val/rmse_ab" in line]
    assert [line["step"] for line in validations] == [10, 20]
    names = ("rmse_ab", "loss", "psnr", "ssim", "auc", "auc_rebalanced", "colorfulness", "near_grey")
    assert validations[0].keys() >= {"step", *(f"val/{name}" for name in names)}


def test_tensorboard_holds_the_same(trained: Path) -> None:
    events = EventAccumulator(str(trained / "tensorboard"))
    events.Reload()
    written = [event.value for event in events.Scalars("train/loss")]
    assert written == pytest.approx(losses(trained))
    assert [event.step for event in events.Images("preview")] == [10, 20]


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_precisions_of_the_cpu(configure, tmp_path: Path, precision: str, trained: Path) -> None:
    train(configure(tmp_path / "run", train__precision=precision))
    assert losses(tmp_path / "run") == pytest.approx(losses(trained), rel=0.05)
    assert same(tmp_path / "run", trained) == (precision == "fp32")
    assert all(tensor.dtype != torch.bfloat16 for tensor in weights(tmp_path / "run").values())


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["bf16", "fp32", "auto"])  # fp16: test_precision.py
def test_precisions_of_the_gpu(configure, tmp_path: Path, precision: str, trained: Path) -> None:
    train(configure(tmp_path / "run", train__precision=precision, train__device="cuda"))
    assert losses(tmp_path / "run") == pytest.approx(losses(trained), rel=0.05)


def test_a_run_does_not_import_what_it_does_not_need(shards: ShardSet, tmp_path: Path) -> None:
    """The compiler alone takes 2 s; without it, a run takes its first step after 4 s of CPU."""
    train = ["train", "--out", str(tmp_path / "run"), "--data.train", str(shards.root), "--data.size", "32"]
    train += ["--model.width", "0.0625", "--train.steps", "1", "--train.batch_size", "4", "--train.device", "cpu"]
    absent = {
        "torch._dynamo",
        "torch._inductor",
        "torch.distributed.tensor",
        "torch.utils.flop_counter",
        "matplotlib",
        "skimage",
        "tensorboard",
    }
    code = f"import sys\nfrom photochrom.engine.cli import main\nassert main({[*train, '--log.trackers', '[]']}) == 0\n"
    code += f"print(*({absent} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[1:] == [""]


def test_epochs_give_the_steps(configure, tmp_path: Path) -> None:
    summary = train(configure(tmp_path / "run", train__steps=None, train__epochs=3))
    assert summary["steps"] == 7  # 3 epochs of 9 photographs, in batches of 4


def test_weights_that_are_nan_are_not_saved(configure, tmp_path: Path) -> None:
    """After the last step, there is no loss that would show it."""
    with pytest.raises(ValueError, match=r"tensors of the network became infinite or nan before step 1,.*--optim\.lr"):
        train(configure(tmp_path / "run", optim__lr=1e39, train__steps=1))
    assert not list((tmp_path / "run").glob("checkpoints/*"))
    assert not (tmp_path / "run" / "model.safetensors").exists()


class LossWithTerm(L2):
    """A loss with a term."""

    def forward(self, prediction, batch) -> LossOutput:
        total = super().forward(prediction, batch).total
        return LossOutput(total=total, terms={"half": total / 2})


def test_the_terms_of_a_loss_are_logged(configure, tmp_path: Path) -> None:
    loss = ClassSpec(class_path=f"{__name__}.LossWithTerm")
    train(configure(tmp_path / "run", loss=loss, train__steps=4, train__grad_accum_steps=2, log__every=2))
    lines = [line for line in metrics(tmp_path / "run") if "train/loss" in line]
    assert [line["train/half"] for line in lines] == pytest.approx([line["train/loss"] / 2 for line in lines])


class ForBins(L2):
    head = "bins"


def test_a_loss_for_another_head_is_refused(configure, tmp_path: Path) -> None:
    loss = ClassSpec(class_path=f"{__name__}.ForBins")
    with pytest.raises(ValueError, match=r"needs the head 'bins', and .* has the head 'ab': set --model\.head bins"):
        train(configure(tmp_path / "run", loss=loss))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"data__train": Path("nowhere")}, "there is no shard set at nowhere"),
        ({"data__val": Path("nowhere")}, "there is no shard set at nowhere"),
        (
            {"data__size": 128},
            r"crops of 128 pixels are larger than every photograph in .*, where the longest short side is 96",
        ),
        (
            {"train__batch_size": 5, "train__grad_accum_steps": 2},
            r"batch_size=5 is not a multiple of 2, 1 process x train.grad_accum_steps=2: try 6",
        ),
        ({"train__precision": "fp16"}, "precision=fp16 needs a GPU: use fp32 or bf16 on a CPU"),
        ({"resume": "elsewhere"}, "--resume elsewhere is not auto, never or the folder"),
        ({"schedule__warmup_steps": 20}, "schedule.warmup_steps=20 leaves nothing of a run of 20 steps: shorten it"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    configure, tmp_path: Path, settings: dict, sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        train(configure(tmp_path / "run", **settings))
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there(configure, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"device=cuda needs a GPU.*sees none.*use device=cpu"):
        train(configure(tmp_path / "run", train__device="cuda"))
    assert not (tmp_path / "run").exists()


def test_a_folder_that_holds_something_else_is_refused(configure, tmp_path: Path) -> None:
    (tmp_path / "diary.txt").write_text("dear")
    with pytest.raises(ValueError, match=r"is not empty \(it holds diary.txt\) and holds no run"):
        train(configure(tmp_path))
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file is a file: name a new folder"):
        train(configure(tmp_path / "file"))


def test_a_finished_run_is_not_done_again(
    configure, trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*") if path.is_file()}
    assert train(configure(trained))["steps"] == 20
    assert f"the run in {trained} is finished, at step 20; ask for more with --train.steps\n" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*") if path.is_file()} == before
    with pytest.raises(ValueError, match=r"is complete at step 20: ask for more with --train.steps"):
        train(configure(trained, train__steps=10))
    with pytest.raises(ValueError, match="already holds a run: name another --out, or continue it with --resume auto"):
        train(configure(trained, resume="never"))
    monkeypatch.chdir(trained)
    with pytest.raises(ValueError, match="already holds a run"):
        train(configure(Path(), resume="never"))


def test_the_first_line_says_what_is_trained(configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(configure(tmp_path / "run", train__steps=2))
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("training"))
    assert line.startswith("training from step 0 to 2 on the CPU in fp32, with ")
    assert line.endswith(f"{tmp_path / 'run'}: VGGColorizer, 0.8889 epochs of 9 photographs")


def test_a_changed_setting_is_printed(configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(configure(tmp_path / "run", train__steps=10))
    capsys.readouterr()
    train(configure(tmp_path / "run", train__steps=11, optim__lr=5e-4))
    messages = [line for line in capsys.readouterr().err.splitlines() if line.startswith("changed")]
    assert messages == [
        "changed since the run began: optim.lr: 0.0001 -> 0.0005",
        "changed since the run began: train.steps: 10 -> 11",
    ]


def test_a_changed_learning_rate_is_the_one_that_counts(configure, tmp_path: Path) -> None:
    """The optimizer's saved state also holds the old rate."""
    train(configure(tmp_path / "run", train__steps=10))
    before = weights(tmp_path / "run")
    train(configure(tmp_path / "run", train__steps=12, optim__lr=1e-12))
    for name, after in weights(tmp_path / "run").items():
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            torch.testing.assert_close(after, before[name], rtol=0, atol=1e-9)


def test_milestones_change_the_rate(configure, trained: Path, tmp_path: Path) -> None:
    """A milestone of almost 0 stops the learning from its step on, also in a resumed run."""
    settings = {"optim__lr": 1e-4, "schedule__type": "step", "schedule__milestones": [(5, 5e-5), (10, 1e-12)]}
    train(configure(tmp_path / "run", train__steps=10, **settings))
    before = weights(tmp_path / "run")
    train(configure(tmp_path / "run", train__steps=15, **settings))
    rates = [line["optim/lr"] for line in metrics(tmp_path / "run") if "optim/lr" in line]
    assert rates == [1e-4] * 5 + [5e-5] * 5 + [1e-12] * 5
    assert losses(tmp_path / "run")[:6] == losses(trained)[:6]
    assert losses(tmp_path / "run")[6:10] != losses(trained)[6:10]
    for name, after in weights(tmp_path / "run").items():
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            torch.testing.assert_close(after, before[name], rtol=0, atol=1e-9)


def test_a_loss_gets_the_prior_of_the_training_set(configure, shards: ShardSet, tmp_path: Path) -> None:
    """Also one that is wrapped; the model file keeps it, the configuration says what was asked for."""
    wrapped = {"class_path": "RebalancedCrossEntropy", "init_args": {"k": 3}}
    for loss in (ClassSpec(**wrapped), ClassSpec(class_path="Focal", init_args={"base": wrapped})):
        out = tmp_path / loss.class_path
        train(configure(out, loss=loss, train__steps=2))
        kept = read_metadata(out / "model.safetensors").loss.init_args
        kept = kept["base"]["init_args"] if "base" in kept else kept
        assert kept == {"k": 3, "prior": shards.prior.tolist()}
        assert yaml.safe_load((out / "config.yaml").read_text())["loss"] == to_plain_dict(loss)


def test_a_prior_from_a_file_is_kept_in_the_model_file(configure, shards: ShardSet, tmp_path: Path) -> None:
    prior = np.arange(1.0, 314)
    np.save(tmp_path / "prior.npy", prior)
    loss = ClassSpec(class_path="RebalancedCrossEntropy", init_args={"prior": str(tmp_path / "prior.npy")})
    train(configure(tmp_path / "run", loss=loss, train__steps=2))
    (tmp_path / "prior.npy").unlink()
    metadata = read_metadata(tmp_path / "run" / "model.safetensors")
    assert metadata.loss.init_args["prior"] == prior.tolist()
    torch.testing.assert_close(build_loss(metadata.loss).class_weights, rebalancing_weights(torch.from_numpy(prior)))


def test_a_prior_that_cannot_be_read_is_refused(configure, tmp_path: Path) -> None:
    loss = ClassSpec(class_path="RebalancedCrossEntropy", init_args={"prior": "nowhere.npy"})
    with pytest.raises(ValueError, match=r"loss\.prior=nowhere\.npy cannot be read .*: name a shard set"):
        train(configure(tmp_path / "run", loss=loss))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("head", ["ab", "bins"])
@pytest.mark.parametrize("loss", ["L2", "SmoothL1", "RebalancedCrossEntropy"])
def test_every_loss_trains_either_head(head: str, loss: str, configure, shards: ShardSet, tmp_path: Path) -> None:
    model = ModelSpec(class_path="VGGColorizer", init_args={"width": 0.0625, "head": head})
    settings = {
        "train__steps": 40,
        "train__batch_size": 9,
        "optim__lr": 1e-3,
        "log__every": 10,
        "log__validate_every": 20,
    }
    train(configure(tmp_path, model=model, loss=ClassSpec(class_path=loss), data__val=shards.root, **settings))
    first, *_, last = losses(tmp_path)
    assert last < first
    assert all(math.isfinite(line["val/loss"]) for line in metrics(tmp_path) if "val/loss" in line)


def test_other_data_is_refused_in_the_middle_of_a_run(configure, tmp_path: Path) -> None:
    train(configure(tmp_path / "run", train__steps=10))
    with pytest.raises(
        ValueError,
        match=r"a run continues with the photographs and the order .* these differ: batch_size=4 then and 8 now",
    ):
        train(configure(tmp_path / "run", train__batch_size=8))


def test_a_changed_network_is_refused(configure, tmp_path: Path) -> None:
    train(configure(tmp_path / "run", train__steps=10))
    wider = ModelSpec(class_path="VGGColorizer", init_args={"width": 0.125})
    with pytest.raises(ValueError, match=r"is of another network \(model.width: 0.0625 -> 0.125\): name another --out"):
        train(configure(tmp_path / "run", model=wider))
    # The tensors would fit: its constants are saved with the weights, and would not be the new ones.
    other = ModelSpec(class_path="VGGColorizer", init_args={"width": 0.0625, "normalization": "seed"})
    with pytest.raises(ValueError, match=r"\(model.normalization: zhang -> seed\)"):
        train(configure(tmp_path / "run", model=other))
    same = ModelSpec(class_path="VGGColorizer", init_args={"normalization": "zhang", "width": 0.0625})
    train(configure(tmp_path / "run", model=same, train__steps=11))


def test_settings_without_effect_are_printed(configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {
        "loader__cache_gib": 1.0,
        "schedule__reference_batch_size": 8,
        "train__epochs": 7,
        "data__crop": "center",
    }
    train(configure(tmp_path / "run", train__steps=1, data__scale=(0.5, 1.0), log__validate_every=3, **settings))
    said = [line for line in capsys.readouterr().err.splitlines() if "has no effect" in line]
    assert said == [
        "data.scale=[0.5, 1.0] has no effect without data.crop=random_resized",
        "schedule.reference_batch_size=8 has no effect without schedule.lr_scaling",
        "loader.cache_gib=1.0 has no effect without loader.backend=cached",
        "train.epochs=7 has no effect without train.steps=null",
        "log.validate_every=3 has no effect without data.val",
    ]


def test_settings_with_effect_are_not(configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shards = configure(tmp_path).data.train
    settings = {"loader__cache_gib": 1.0, "loader__backend": "cached", "data__val": shards, "log__validate_every": 3}
    train(configure(tmp_path / "run", train__steps=1, data__scale=(0.5, 1.0), **settings))
    assert "has no effect" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "variables", [{"LOCAL_RANK": "0"}, {"RANK": "1", "WORLD_SIZE": "2"}, {"LOCAL_WORLD_SIZE": "x"}]
)
def test_the_environment_of_a_launcher_without_one_is_a_sentence(
    configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")  # so that what Accelerate sets is undone
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    given = ", ".join(f"{name}={value}" for name, value in variables.items())
    with pytest.raises(ValueError, match=f"^{given} in the environment is what a launcher .* sets, and there is none"):
        train(configure(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_precision_that_is_not_there_is_named_beside_a_launcher_too(
    configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ValueError, match=r"^precision=fp16 needs a GPU"):
        train(configure(tmp_path / "run", train__precision="fp16"))


def test_the_folder_is_claimed_before_a_checkpoint_is_chosen(
    configure, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or another run could end in between, and this one would start from an old checkpoint."""
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    chosen = []
    monkeypatch.setattr("photochrom.engine.training.run.find_start", lambda *_: chosen.append(1))
    with exclusive_lock(run), pytest.raises(ValueError, match="another process is writing to"):
        train(configure(run))
    assert not chosen


def test_files_of_checkpoints_have_the_mode_of_the_umask(trained: Path) -> None:
    files = [path for path in (trained / "checkpoints" / "step-00000020").iterdir() if path.is_file()]
    assert {path.stat().st_mode for path in [*files, trained / "model.safetensors"]} == {
        (trained / "summary.json").stat().st_mode
    }
