"""Shard sets on S3, as moto's server on this machine speaks it."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from photochrom.engine import cli
from photochrom.pipelines import DaliLoader, ShardSet, TorchLoader
from photochrom.pipelines.loading.reader import RemoteReader
from photochrom.pipelines.remote import RemotePath, open_folder

obstore = pytest.importorskip("obstore", reason="obstore is not installed")
boto3 = pytest.importorskip("boto3", reason="boto3 is not installed")

SETTINGS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_REGION": "us-east-1",
    "AWS_ALLOW_HTTP": "true",
}


@pytest.fixture(scope="module")
def client(shards: ShardSet) -> Iterator[Any]:
    """A client of a server that has s3://photos, and in it the nine photographs, under nine/."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SETTINGS.items():
            patch.setenv(name, value)
        patch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*server.get_host_and_port()))
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket="photos")
        upload(client, shards.root, "nine")
        yield client
    server.stop()


def upload(client: Any, folder: Path, prefix: str) -> None:
    for file in folder.iterdir():
        if file.is_file():
            client.upload_file(str(file), "photos", f"{prefix}/{file.name}")


@pytest.fixture
def remote(client: Any) -> ShardSet:
    return ShardSet.open("s3://photos/nine")


def test_a_set_is_what_it_is_in_a_folder(remote: ShardSet, shards: ShardSet) -> None:
    assert remote.num_samples == shards.num_samples
    assert remote.digest == shards.digest
    assert str(remote.root) == "s3://photos/nine"
    for i in range(9):
        here, there = shards.sample(i), remote.sample(i)
        assert (there.key, there.path, there.class_name) == (here.key, here.path, here.class_name)
        assert there.read() == here.read()


@pytest.mark.parametrize("make", [DaliLoader, TorchLoader])
def test_loaders_yield_what_they_yield_from_a_folder(make: Any, remote: ShardSet, shards: ShardSet) -> None:
    settings = {"batch_size": 4, "size": 64, "threads": 2}
    for train in (True, False):
        for actual, expected in zip(
            make(remote, train=train, **settings), make(shards, train=train, **settings), strict=True
        ):
            assert torch.equal(actual.index, expected.index)
            assert torch.equal(actual.L, expected.L)
            assert torch.equal(actual.ab, expected.ab)


def test_a_stream_begun_in_a_folder_goes_on_from_a_server(remote: ShardSet, shards: ShardSet) -> None:
    settings: dict[str, Any] = {"batch_size": 4, "size": 64, "train": True, "threads": 1}
    begun = TorchLoader(shards, **settings)
    next(iter(begun))
    state = json.loads(json.dumps(begun.state_dict()))
    expected = next(iter(begun))
    resumed = TorchLoader(remote, **settings)
    resumed.load_state_dict(state)
    assert torch.equal(next(iter(resumed)).ab, expected.ab)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Collects the number of samples of each request."""
    asked: list[int] = []
    original = RemotePath.read_ranges
    monkeypatch.setattr(
        RemotePath,
        "read_ranges",
        lambda self, starts, lengths, **k: asked.append(len(starts)) or original(self, starts, lengths, **k),
    )
    return asked


def test_a_server_is_asked_once_for_what_lies_together(remote: ShardSet, asked: list[int]) -> None:
    reader = RemoteReader(remote)
    reader.prefetch(np.arange(9))
    stored = reader.read(np.arange(9))
    assert len(asked) == len(remote.shards)
    assert [bytes(each) for each in stored] == [remote.sample(i).read() for i in range(9)]


def test_what_is_coming_is_not_asked_for_again(remote: ShardSet, asked: list[int]) -> None:
    reader = RemoteReader(remote)
    for start in range(0, 5):
        reader.prefetch(np.arange(start, start + 5))
    stored = reader.read(np.arange(9))
    assert sum(asked) == 9
    assert [bytes(each) for each in stored] == [remote.sample(i).read() for i in range(9)]


def test_what_is_there_stays_when_more_is_asked_for(remote: ShardSet) -> None:
    """Some samples were prefetched long ago; reading others must not drop them before they are read."""
    reader = RemoteReader(remote)
    reader._largest_prefetch = 1
    for i in (0, 1):
        reader.prefetch(np.array([i]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("photochrom.pipelines.loading.reader._MAX_PREFETCHES", 1)
        stored = reader.read(np.arange(9))
    assert [bytes(each) for each in stored] == [remote.sample(i).read() for i in range(9)]


def test_what_is_announced_and_never_read_does_not_pile_up(remote: ShardSet) -> None:
    reader = RemoteReader(remote)
    for _ in range(50):
        reader.prefetch(np.array([0, 1]))
        reader.prefetch(np.array([5, 8]))
    assert len(reader._pending) <= 9
    for i in (3, 3, 0):
        assert bytes(reader.read(np.array([i, i]))[1]) == remote.sample(i).read()


def test_what_is_gone_or_cut_since_is_one_sentence(client: Any, shards: ShardSet) -> None:
    upload(client, shards.root, "cut")
    whole = ShardSet.open("s3://photos/cut")
    tar = f"{whole.shards[1].name}.tar"
    client.put_object(Bucket="photos", Key=f"cut/{tar}", Body=b"half")
    with pytest.raises(ValueError, match=rf"s3://photos/cut/{tar} has 4 bytes where the manifest says"):
        ShardSet.open("s3://photos/cut")
    client.delete_object(Bucket="photos", Key=f"cut/{tar}")
    with pytest.raises(ValueError, match=rf"s3://photos/cut/{tar} is missing from the shard set"):
        ShardSet.open("s3://photos/cut")
    with pytest.raises(ValueError, match=rf"^s3://photos/cut/{tar} cannot be read: NoSuchKey"):
        list(TorchLoader(whole, batch_size=9, size=64, train=False))
    with pytest.raises(ValueError, match="there is no shard set at s3://photos/nothing"):
        ShardSet.open("s3://photos/nothing")
    with pytest.raises(ValueError, match=r"^s3://nobody/has-this cannot be read: "):
        ShardSet.open("s3://nobody/has-this")


def test_the_network_is_trained_from_a_server(client: Any, tmp_path: Path) -> None:
    command = ["train", "--data.train", "s3://photos/nine", "--out", str(tmp_path / "run"), "--train.device", "cpu"]
    command += ["--data.size", "32", "--model.width", "0.0625", "--train.steps", "2", "--train.batch_size", "4"]
    assert cli.main(command) == 0
    assert "train: s3://photos/nine" in (tmp_path / "run" / "config.yaml").read_text()


def test_paths_of_disks_are_no_urls() -> None:
    for text in ("shards/mine", "/data/s3", r"C:\shards", "C:/shards", "s3:/one/slash"):
        assert isinstance(open_folder(text), Path)


def test_without_obstore_a_sentence_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['obstore'] = None\n"
        "from photochrom.pipelines import ShardSet\n"
        "ShardSet.open('s3://photos/nine')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install obstore" in done.stderr.splitlines()[-1]


def test_a_forked_process_is_refused(remote: ShardSet, call_in_fork: Any) -> None:
    def refusal() -> str:
        with pytest.raises(ValueError, match="forked") as refused:
            remote.sample(0).read()
        return str(refused.value)

    assert "cannot be read in a process that was forked after the first use of obstore" in call_in_fork(refusal)
