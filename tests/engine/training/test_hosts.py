"""Three hosts with addresses of their own: network namespaces of this machine, joined by a bridge."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from photochrom.engine.cli import main
from photochrom.pipelines import ShardSet
from safetensors.torch import load_file

HOSTS = 3
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def clear() -> None:
    for host in range(HOSTS):
        subprocess.run(["ip", "netns", "del", f"photochrom{host}"], capture_output=True)
    subprocess.run(["ip", "link", "del", "photochrom"], capture_output=True)


@pytest.fixture(scope="module")
def hosts() -> Iterator[list[str]]:
    """Names of the namespaces; host i is 10.213.87.{i + 1}."""
    clear()
    try:
        ip("link", "add", "photochrom", "type", "bridge")
        ip("link", "set", "photochrom", "up")
        for host in range(HOSTS):
            ip("netns", "add", f"photochrom{host}")
            ip("link", "add", f"pc{host}", "type", "veth", "peer", "name", "eth0", "netns", f"photochrom{host}")
            ip("link", "set", f"pc{host}", "master", "photochrom", "up")
            for device, address in (("lo", "127.0.0.1/8"), ("eth0", f"10.213.87.{host + 1}/24")):
                subprocess.run(
                    ["ip", "-n", f"photochrom{host}", "addr", "add", address, "dev", device], capture_output=True
                )
                ip("-n", f"photochrom{host}", "link", "set", device, "up")
    except (OSError, subprocess.CalledProcessError) as error:
        clear()
        why = getattr(error, "stderr", b"") or str(error)
        pytest.skip(f"no network namespaces can be made here ({why!r})")
    yield [f"photochrom{host}" for host in range(HOSTS)]
    clear()


def settings(shards: ShardSet, out: Path, *overrides: str) -> list[str]:
    train = ["photochrom", "train", "--out", str(out), "--data.train", str(shards.root), "--data.size", "32"]
    train += ["--model.width", "0.0625", "--train.batch_size", "6", "--train.device", "cpu", "--loader.threads", "1"]
    return ["-m", *train, "--train.precision", "fp32", "--log.every", "1", *overrides]


def start(host: int, port: int, shards: ShardSet, out: Path, *overrides: str) -> subprocess.Popen[str]:
    """The command that a person types on a host."""
    launcher = ["-m", "torch.distributed.run", "--nnodes", str(HOSTS), "--node-rank", str(host)]
    launcher += ["--nproc-per-node", "1", "--master-addr", "10.213.87.1", "--master-port", str(port)]
    return subprocess.Popen(
        ["ip", "netns", "exec", f"photochrom{host}", sys.executable, *launcher, *settings(shards, out, *overrides)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "eth0"},
    )


@pytest.mark.slow
def test_three_hosts_train_like_one(hosts: list[str], shards: ShardSet, tmp_path: Path) -> None:
    """One that is unplugged ends the others, in bounded time and with a sentence; the run resumes from there."""
    out = tmp_path / "run"
    overrides = ("--checkpoint.every", "2", "--train.timeout", "8")
    run = [start(host, 29500, shards, out, *overrides, "--train.steps", "100000") for host in range(HOSTS)]
    assert run[0].stderr is not None
    for line in run[0].stderr:
        if line.startswith("step 5/"):
            break
    ip("-n", hosts[2], "link", "set", "eth0", "down")
    unplugged = time.monotonic()
    told = [process.communicate(timeout=90)[1] for process in run]
    assert time.monotonic() - unplugged < 60
    assert all(process.returncode == 1 for process in run)
    for rank, text in enumerate(told):
        assert any(
            line.startswith(f"photochrom train: rank {rank} on ") and "Resume from step-0" in line
            for line in text.splitlines()
        ), text
    ip("-n", hosts[2], "link", "set", "eth0", "up")

    saved = max(int(path.name[5:]) for path in (out / "checkpoints").glob("step-*"))
    steps = ("--train.steps", str(saved + 2))
    run = [start(host, 29501, shards, out, *overrides, *steps) for host in range(HOSTS)]
    told = [process.communicate(timeout=90)[1] for process in run]
    assert all(process.returncode == 0 for process in run), told
    assert f"training from step {saved} to {saved + 2} on the CPU (3 processes)" in told[0]

    one = tmp_path / "one"
    assert main(settings(shards, one, *steps, "--train.grad_accum_steps", "3")[2:]) == 0
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (out, one))
    for name in ours:
        if not name.endswith(STATISTICS):
            torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-5)
