"""Files of every kind with random changes of structure: each is read or refused in a sentence, soon, in little memory.

Hashes are made to match: who alters a file can do that, too.
"""

import json
import random
import resource
import shutil
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import photochrom
import pytest
import torch
import yaml
from photochrom.engine.checkpoints import model_file
from photochrom.engine.checkpoints.card import read_scores, write_card
from photochrom.engine.checkpoints.checkpoint import open_checkpoint
from photochrom.engine.checkpoints.half_precision import HalfPrecisionResult
from photochrom.engine.checkpoints.model_file import load_with_metadata, read_metadata, read_tensors
from photochrom.engine.checkpoints.training_state import load_state
from photochrom.engine.checkpoints.weight_file import load_weight_file
from photochrom.engine.configuration.config import ClassSpec, DataConfig, RunConfig
from photochrom.engine.configuration.run_parser import read_settings, run_config
from photochrom.engine.evaluation.row_file import RowFile
from photochrom.engine.training.best import BestValidation
from photochrom.engine.training.checks import check_training_state
from photochrom.engine.training.optimizer_state import load_optimizer_state_dict
from photochrom.losses.rebalancing import load_prior
from photochrom.models import VGGColorizer
from photochrom.pipelines import PackConfig, ShardSet, TorchLoader
from photochrom.pipelines.files import sha256_of
from photochrom.pipelines.packing.pack_stats import PackStats
from photochrom.pipelines.packing.shard_writer import ShardWriter
from photochrom.pipelines.packing.stats import stats
from photochrom.pipelines.packing.verify import VerifyConfig, verify
from safetensors.torch import save_file

ODD: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 0.5, float("nan"), float("inf"), 1 << 31, 1 << 63, 10**400, -(1 << 70)),
    *("", "x", "..", "/etc/passwd", "a/../b", "\0", "\udcff", "9" * 50, "x" * 5000, "null", "[", "ab", "bins"),
    *([], {}, [[]], [None], {"": None}, {"x": {"x": {}}}, [1] * 1000, "@DEEP@"),
)
DEEP = "[" * 3000 + "]" * 3000


def mutated(value: Any, rng: random.Random) -> Any:
    """Returns a copy of plain values with one to three changes: replaced, removed, doubled, renamed, wrapped."""
    holder = [deepcopy(value)]
    for _ in range(rng.choice((1, 1, 2, 3))):
        container, key = place(holder, rng)
        change = rng.choice(("replace", "replace", "replace", "remove", "double", "rename", "wrap", "swap"))
        if change == "remove" and container is not holder:
            del container[key]
        elif change == "double" and isinstance(container, list) and container is not holder:
            container.append(container[key])
        elif change == "rename" and isinstance(container, dict):
            container[rng.choice(("", "x", f"{key}x", "shards", "class_path"))] = container.pop(key)
        elif change == "wrap":
            container[key] = rng.choice(([container[key]], {"x": container[key]}, str(container[key])))
        elif change == "swap":
            other, name = place(holder, rng)
            container[key] = deepcopy(other[name])
        else:
            container[key] = rng.choice(ODD)
    return holder[0]


def place(value: Any, rng: random.Random) -> tuple[Any, Any]:
    """Returns a dict or list within a value, and a key of it: as often near the top as far from it."""
    key = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
    inner = value[key]
    return place(inner, rng) if isinstance(inner, dict | list) and inner and rng.random() < 0.7 else (value, key)


def mutated_bytes(data: bytes, rng: random.Random, *, head: int) -> bytes:
    """Returns bytes with one to three changes in the first `head` of them."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randrange(min(head, len(changed)) or 1)
        tokens = (
            b"",
            b"-",
            b"0",
            b"9" * 20,
            b"nan",
            b"\xff",
            b"\0",
            b" ",
            b"\n",
            b"[" * 2000,
            b"{",
            b'"',
            b"x",
            b"1.5",
        )
        size = rng.choice((0, 0, 1, 1, 4, 200))
        changed[at : at + size] = rng.choice((*tokens, bytes(changed[:at][-40:]), rng.randbytes(8)))
    return bytes(changed)


def as_json(values: Any) -> str:
    return json.dumps(values).replace('"@DEEP@"', DEEP)


Mutation = Callable[[random.Random], None]


@pytest.fixture(scope="module")
def run(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(trained, tmp_path_factory.mktemp("mutated") / "run"))


def model_header(run: Path, shards: ShardSet, tmp_path: Path) -> Mutation:
    """The metadata in a model file, read by all that reads it."""
    file, tensors = tmp_path / "mine.safetensors", read_tensors(run / "model.safetensors")
    with model_file._opened(run / "model.safetensors") as opened:
        recipe = json.loads(opened.metadata()["recipe"])

    def mutation(rng: random.Random) -> None:
        text = as_json(mutated(recipe, rng))
        header = {"photochrom": "1", "recipe": text, "sha256": model_file._digest(text, tensors)}
        save_file(
            tensors, file, metadata={name: value.encode(errors="replace").decode() for name, value in header.items()}
        )
        _, metadata = load_with_metadata(file)
        half = HalfPrecisionResult(num_parameters=1, num_bytes=1, kept=[], rmse_ab=0.1, max_ab=0.2)
        write_card(file, metadata, half)

    return mutation


def safetensors_header(run: Path, shards: ShardSet, tmp_path: Path) -> Mutation:
    """The names, types and shapes of tensors in a file of safetensors."""
    data = (run / "model.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])

    def mutation(rng: random.Random) -> None:
        changed = as_json(mutated(header, rng)).encode()
        if rng.random() < 0.2:
            changed = mutated_bytes(changed, rng, head=9000)
        file = tmp_path / "mine.safetensors"
        file.write_bytes(len(changed).to_bytes(8, "little") + changed + data[8 + size :])
        load_weight_file(file)
        photochrom.load(file)

    return mutation


def torch_file(run: Path, shards: ShardSet, tmp_path: Path) -> Mutation:
    """The bytes of a file for torch.load."""
    torch.save(
        {"state_dict": {"conv1_1.weight": torch.ones(2), "b": torch.ones(3)}, "epoch": 3}, tmp_path / "whole.pth"
    )
    data = (tmp_path / "whole.pth").read_bytes()

    def mutation(rng: random.Random) -> None:
        (tmp_path / "mine.pth").write_bytes(mutated_bytes(data, rng, head=len(data)))
        load_weight_file(tmp_path / "mine.pth")

    return mutation


def checkpoint(run: Path, shards: ShardSet, tmp_path: Path) -> Mutation:
    """state.json, and the plain values of training.safetensors, as far as they are restored."""
    folder = run / "checkpoints" / "step-00000020"
    state = json.loads((folder / "state.json").read_text())
    values, network = load_state(folder / "training.safetensors"), VGGColorizer(width=0.0625)
    tensors = {name: value for name, value in values.items() if isinstance(value, torch.Tensor)}
    plain = {name: value for name, value in values.items() if name not in tensors}
    optim = ClassSpec(class_path="Adam", init_args={"lr": 1e-4})
    config = RunConfig(out=tmp_path, data=DataConfig(train="x"), optim=optim)
    loader = TorchLoader(shards, batch_size=4, size=32, train=True)

    def mutation(rng: random.Random) -> None:
        changed = rng.random() < 0.7
        (folder / "state.json").write_text(as_json(mutated(state, rng) if changed else state))
        header = plain if changed else mutated(plain, rng)
        some = tensors if changed else mutated(tensors, rng)
        whole = some if isinstance(some, dict) else {}
        some = {name: value for name, value in whole.items() if isinstance(value, torch.Tensor)}
        save_file(some, folder / "training.safetensors", metadata={"values": as_json(header)})
        names = ("model.safetensors", "training.safetensors", "state.json")
        (folder / "SHA256SUMS").write_text("".join(f"{sha256_of(folder / name)}  {name}\n" for name in names))
        opened = open_checkpoint(folder)
        best = BestValidation.resume("rmse_ab", "x", opened)
        best.update(1.0, 30)
        round(opened.totals.seconds)
        loader.load_state_dict(opened.loader)
        loader.plan(loader._next_batch)
        optimizer = torch.optim.Adam(network.parameters())
        saved = opened.training()
        check_training_state(config, network, saved)
        part = {name.removeprefix("optimizer/"): value for name, value in saved.items() if "optimizer/" in name}
        load_optimizer_state_dict(optimizer, network, part)
        for weight in network.parameters():
            weight.grad = torch.zeros_like(weight)
        optimizer.step()

    return mutation


def manifest(run: Path, shards: ShardSet, tmp_path: Path) -> Mutation:
    """A manifest, and all that is read of a set."""
    root = Path(shutil.copytree(shards.root, tmp_path / "set"))
    content = json.loads((root / "manifest.json").read_text())

    def mutation(rng: random.Random) -> None:
        (root / "manifest.json").write_text(as_json(mutated(content, rng)))
        use_set(root)

    return mutation


def index(run: Path, shards: ShardSet, tmp_path: Path) -> Mutation:
    """A shard's index, whose size and hash the manifest knows."""
    root = Path(shutil.copytree(shards.root, tmp_path / "set"))
    file = root / "photos-000000.idx"
    content, data = json.loads((root / "manifest.json").read_text()), file.read_bytes()

    def mutation(rng: random.Random) -> None:
        file.write_bytes(mutated_bytes(data, rng, head=len(data)))
        content["shards"][0] |= {"index_bytes": file.stat().st_size, "index_sha256": sha256_of(file)}
        (root / "manifest.json").write_text(json.dumps(content))
        use_set(root)

    return mutation


def use_set(root: Path) -> None:
    data = ShardSet.open(root)
    stats(data)
    for number in range(data.num_samples):
        data.sample(number).read()
    next(iter(TorchLoader(data, batch_size=2, size=16, train=True)))
    verify(VerifyConfig(root=root))


def recipe(run: Path, shards: ShardSet, tmp_path: Path) -> Mutation:
    """The settings of a run."""
    settings = {
        "data": {"size": 64, "scale": [0.25, 1.0], "crop": "random", "weights": [1, 2]},
        "model": {"class_path": "VGGColorizer", "init_args": {"width": 0.5, "head": "bins"}},
        "loss": {"class_path": "Focal", "init_args": {"base": {"class_path": "L2", "init_args": {}}, "gamma": 1}},
        "optim": {"class_path": "AdamW", "init_args": {"lr": 1e-4, "betas": [0.9, 0.99]}},
        "schedule": {"type": "step", "milestones": [[10, 1e-5]]},
        "train": {"steps": 3, "ema": None, "compile": "off"},
        "log": {"trackers": ["tensorboard"]},
    }
    required = {"out": tmp_path, "data.train": ["a", "b"], "model": "VGGColorizer", "loss": "L2", "optim": "Adam"}

    def mutation(rng: random.Random) -> None:
        changed = mutated(settings, rng)
        text = as_json(changed) if rng.random() < 0.7 else yaml.safe_dump(changed, default_flow_style=None)
        if rng.random() < 0.3:
            text = mutated_bytes(text.encode(), rng, head=len(text)).decode(errors="replace")
        (tmp_path / "mine.yaml").write_text(text)
        run_config({**required, **read_settings(tmp_path / "mine.yaml")})

    return mutation


def results(run: Path, shards: ShardSet, tmp_path: Path) -> Mutation:
    """The summary of an evaluation, as `export --scores` reads it and a card shows it."""
    values = {"rmse_ab": 1.0, "psnr": 20.0, "ssim": 0.9, "auc": 80.0, "auc_rebalanced": None, "colorfulness": 3.0}
    entry = {"checkpoint": str(run / "model.safetensors"), "data": "shards/x", "num_samples": 9, "size": 32}
    entry |= {
        "sha256": sha256_of(run / "model.safetensors"),
        "is_training_set": False,
        "metrics": values,
        "baselines": {"grey": values},
        "truth": values,
    }
    metadata = read_metadata(run / "model.safetensors")

    def mutation(rng: random.Random) -> None:
        (tmp_path / "summary.json").write_text(as_json(mutated({"provenance": {}, "results": [entry]}, rng)))
        scores = read_scores([tmp_path], run / "model.safetensors")
        scored = replace(metadata, scores=scores)
        half = HalfPrecisionResult(num_parameters=1, num_bytes=1, kept=[], rmse_ab=0.1, max_ab=0.2)
        write_card(run / "model.safetensors", scored, half)

    return mutation


def journal(run: Path, shards: ShardSet, tmp_path: Path) -> Mutation:
    """The facts that an interrupted pack keeps of its first shard."""
    shard = asdict(shards.shards[0])
    counts = PackStats(classes=Counter(a=4), contents=["1"], rejects=[("a", "b", "c")], num_packed=4).to_json()
    content = {"last_key": [5, "a.jpg"], "shard": shard, "stats": {**counts, "ab_counts": [0] * 65536}}
    config = PackConfig(source=tmp_path, out=tmp_path / "out")

    def mutation(rng: random.Random) -> None:
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        (tmp_path / "out" / "work").mkdir(parents=True)
        (tmp_path / "out" / "photos-000000.tar").write_bytes(bytes(shard["bytes"]))
        (tmp_path / "out" / "work" / "photos-000000.json").write_text(as_json(mutated(content, rng)))
        with ThreadPoolExecutor() as pool:
            writer = ShardWriter(tmp_path / "out", tmp_path / "out" / "work", config, check=None, background=pool)
            writer.finish()

    return mutation


def rows(run: Path, shards: ShardSet, tmp_path: Path) -> Mutation:
    """The rows of an interrupted evaluation."""
    fields = np.dtype([("index", np.int64), ("a", np.float32)])
    whole = np.zeros(40, fields)
    whole["index"] = np.arange(40)

    def mutation(rng: random.Random) -> None:
        (tmp_path / "rows").write_bytes(mutated_bytes(whole.tobytes(), rng, head=480))
        RowFile(tmp_path / "rows", fields).read()

    return mutation


def prior(run: Path, shards: ShardSet, tmp_path: Path) -> Mutation:
    """A .npy of the shares of the bins."""
    np.save(tmp_path / "prior.npy", shards.prior)
    data = (tmp_path / "prior.npy").read_bytes()

    def mutation(rng: random.Random) -> None:
        (tmp_path / "mine.npy").write_bytes(mutated_bytes(data, rng, head=140))
        load_prior(tmp_path / "mine.npy")

    return mutation


MODELS = (model_header, safetensors_header, torch_file, checkpoint)
KINDS = (*MODELS, manifest, index, recipe, results, journal, rows, prior)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [30, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_changed_file_is_read_or_refused_in_a_sentence(
    kind: Callable[..., Mutation], number: int, run: Path, shards: ShardSet, tmp_path: Path
) -> None:
    mutation = kind(run, shards, tmp_path)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for seed in range(number):
        started = time.process_time()
        try:
            mutation(random.Random(seed))
        except Exception as error:
            if type(error) is not ValueError or not str(error):
                raise AssertionError(f"seed {seed}: {error!r}") from error
        assert time.process_time() - started < 2, seed
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 200_000
