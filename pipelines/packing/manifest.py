"""Writes what a shard set holds beside its tars: indices, the list of rejects and the manifest."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ... import __version__
from ..csv_file import write_csv
from ..files import atomic_write, sha256_of
from ..shards import FORMAT, MANIFEST, REJECTS, Shard


def index_text(lines: list[str]) -> str:
    """Returns a DALI index (wds2idx format v1.2) with one line per sample."""
    return "\n".join([f"v1.2 {len(lines)}", *lines]) + "\n"


def write_index(tar: Path, lines: list[str]) -> None:
    """Writes a DALI index beside its tar."""
    with atomic_write(tar.with_suffix(".idx")) as file:
        file.write_text(index_text(lines))


def describe_shard(tar: Path, sizes: list[tuple[int, int]]) -> Shard:
    """Returns the manifest's entry for a tar and the index beside it; `sizes` are its samples' (width, height)."""
    index = tar.with_suffix(".idx")
    return Shard(
        name=tar.stem,
        samples=len(sizes),
        bytes=tar.stat().st_size,
        sha256=sha256_of(tar),
        index_bytes=index.stat().st_size,
        index_sha256=sha256_of(index),
        sizes=" ".join(f"{width}x{height}" for width, height in sizes),
    )


def write_manifest(root: Path, shards: list[Shard], **facts: Any) -> None:
    """Publishes the shard set: the manifest is written last, and atomically."""
    manifest = {"format": FORMAT, "photochrom": __version__, **facts, "shards": [asdict(shard) for shard in shards]}
    manifest["sha256"] = manifest_digest(manifest)
    with atomic_write(root / MANIFEST) as file:
        file.write_text(json.dumps(manifest, indent=1) + "\n")


def manifest_digest(manifest: dict[str, Any]) -> str:
    """Returns the hash of a manifest without its own hash."""
    facts = {name: value for name, value in manifest.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def write_rejects(root: Path, rejects: list[tuple[str, str, str]]) -> None:
    """Writes path, reason and detail of every rejected file as CSV."""
    with atomic_write(root / REJECTS) as file:
        write_csv(file, [("path", "reason", "detail"), *sorted(rejects)])
