"""Hugging Face datasets: Arrow files of JPEGs, its Image feature (Pillow), and OpenCV's Lab."""

from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Features, Image, Value, load_from_disk

from .opencv import to_lab
from .original import cut
from .task import Batches, Task, endless, files


def batches(task: Task) -> Batches:
    def planes(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        lab = [to_lab(np.asarray(cut(picture, task))) for picture in rows["photograph"]]
        return {"L": [L for L, _ in lab], "ab": [ab for _, ab in lab], "number": rows["number"]}

    for batch in endless(load_from_disk(task.data).with_transform(planes), task):
        yield batch["L"], batch["ab"], batch["number"]


def write(folder: str, out: str, threads: int) -> None:
    """Writes a dataset of photographs as they are."""
    paths = files(folder)
    rows = {"photograph": [Path(path).read_bytes() for path in paths], "number": list(range(len(paths)))}
    features = Features({"photograph": Image(), "number": Value("int64")})
    Dataset.from_dict(rows, features=features).save_to_disk(out)
