"""Loaders that people use today, beside ours, each measured in a process of its own:

    python -m photochrom.bench.rivals NAME TASK     TASK is the fields of `Task` as JSON

Each is a function of a task that yields batches without end: L (B, 1, S, S) and ab (B, 2, S, S), float32 in Lab units.
What one of them needs is imported where it is used, so that no process pays for the imports of another.
"""

# mypy: disable-error-code="import-not-found"
# FFCV lives in an environment of its own.

import json
import math
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

Batches = Iterator[tuple[Any, Any]]

_AREA, _RATIO = (0.25, 1.0), (3 / 4, 4 / 3)  # of random_resized crops, as our loaders cut them
_SETTLING = 4  # batches before the clock starts: what was prepared while the first ones were looked at
_PASSES = 1000  # that are one epoch to FFCV
_PACKAGES = {  # and the modules that show that they are in use
    "torch": "torch",
    "numpy": "numpy",
    "numba": "numba",
    "pillow": "PIL",
    "simplejpeg": "simplejpeg",
    "scikit-image": "skimage",
    "kornia": "kornia",
    "nvidia-dali-cuda130": "nvidia.dali",
    "nvidia-dali-cuda120": "nvidia.dali",
    "ffcv": "ffcv",
}


@dataclass(frozen=True, kw_only=True)
class Task:
    """What one process loads, and for how long.

    `data` is a folder of JPEG files, a .beton file or a shard set; `crop` is squash, random_resized or, of ours, any
    other. `warm_up` batches are looked at before `seconds` of measuring. `started` is when the process was asked for,
    by the clock of time.monotonic; `device` is where the batches are to be.
    """

    data: str
    crop: str
    size: int
    batch_size: int
    threads: int
    warm_up: int
    seconds: float
    started: float
    device: str


def original(task: Task) -> Batches:
    """The original project's recipe: torch's DataLoader over files, Pillow, scikit-image in float64."""
    from torch.utils.data import DataLoader, RandomSampler

    dataset: Any = _Files(task)
    sampler = RandomSampler(dataset, num_samples=len(dataset) * 10**6)  # one epoch, so that no queue runs empty
    yield from DataLoader(dataset, task.batch_size, sampler=sampler, num_workers=task.threads)


class _Files:
    """A torch dataset of a folder."""

    def __init__(self, task: Task) -> None:
        self._paths, self._task = _files(task), task

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        import numpy as np
        import torch
        from PIL import Image
        from skimage.color import rgb2lab

        picture, size = Image.open(self._paths[index]).convert("RGB"), (self._task.size, self._task.size)
        if self._task.crop == "squash":
            picture = picture.resize(size, Image.Resampling.BICUBIC)
        else:
            picture = picture.crop(_random_box(*picture.size)).resize(size, Image.Resampling.BICUBIC)
            if random.random() < 0.5:
                picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        lab = torch.from_numpy(rgb2lab(np.asarray(picture)).astype(np.float32)).permute(2, 0, 1)
        return lab[:1], lab[1:]


def _random_box(width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a random crop, as torchvision draws it; the whole picture if none fits."""
    for _ in range(10):
        area = width * height * random.uniform(*_AREA)
        ratio = math.exp(random.uniform(*map(math.log, _RATIO)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if w <= width and h <= height:
            left, top = random.randint(0, width - w), random.randint(0, height - h)
            return left, top, left + w, top + h
    return 0, 0, width, height


def dali_kornia(task: Task) -> Batches:
    """DALI as its guides have it, on the CPU, and Kornia's rgb_to_lab as it comes."""
    from kornia.color import rgb_to_lab
    from nvidia.dali import Pipeline, fn, types
    from nvidia.dali.plugin.pytorch import DALIGenericIterator, LastBatchPolicy

    pipeline = Pipeline(batch_size=task.batch_size, num_threads=task.threads, device_id=None)
    with pipeline:
        jpegs, _ = fn.readers.file(files=_files(task), random_shuffle=True, name="files")
        if task.crop == "squash":
            pictures, mirror = fn.decoders.image(jpegs), 0
        else:
            pictures = fn.decoders.image_random_crop(jpegs, random_area=_AREA, random_aspect_ratio=_RATIO)
            mirror = fn.random.coin_flip()
        pictures = fn.resize(pictures, size=(task.size, task.size))
        planes = {"dtype": types.FLOAT, "output_layout": "CHW", "std": [255.0] * 3}
        pipeline.set_outputs(fn.crop_mirror_normalize(pictures, mirror=mirror, **planes))
    loader = DALIGenericIterator(
        pipeline, ["rgb"], reader_name="files", last_batch_policy=LastBatchPolicy.DROP, auto_reset=True
    )
    while True:
        for (batch,) in loader:
            lab = rgb_to_lab(batch["rgb"])
            yield lab[:, :1], lab[:, 1:]


def ffcv_jpg(task: Task) -> Batches:
    """FFCV over JPEGs, with a Lab kernel as fast as ours. In place of a squash it cuts the largest square."""
    import numpy as np
    from ffcv.fields.rgb_image import CenterCropRGBImageDecoder, RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.reader import Reader
    from ffcv.transforms import RandomHorizontalFlip, ToTensor

    samples, shape = Reader(task.data).num_samples, (task.size, task.size)
    if task.crop == "squash":
        cut = [CenterCropRGBImageDecoder(shape, ratio=1)]
    else:
        cut = [RandomResizedCropRGBImageDecoder(shape, scale=_AREA, ratio=_RATIO), RandomHorizontalFlip()]
    loader = Loader(
        task.data,
        batch_size=task.batch_size,
        num_workers=task.threads,
        os_cache=True,
        order=OrderOption.SEQUENTIAL,  # of passes, each in random order: an epoch begins with empty queues
        indices=np.concatenate([np.random.permutation(samples) for _ in range(_PASSES)]).astype(np.uint64),
        pipelines={"rgb": [*cut, _ffcv_lab(), ToTensor()]},
    )
    while True:
        for (lab,) in loader:
            yield lab[:, :1], lab[:, 1:]


def _ffcv_lab() -> Any:
    """FFCV's operation from sRGB (S, S, 3) to Lab (3, S, S)."""
    from dataclasses import replace

    import numpy as np
    from ffcv.pipeline.allocation_query import AllocationQuery
    from ffcv.pipeline.compiler import Compiler
    from ffcv.pipeline.operation import Operation

    from ..pipelines.kernels import rgb_window_to_lab as kernel

    class ToLab(Operation):  # type: ignore[misc]
        def generate_code(self) -> Callable[..., Any]:
            each = Compiler.get_iterator()

            def to_lab(pictures, lab):  # type: ignore[no-untyped-def]
                for i in each(len(pictures)):
                    kernel(pictures[i], 0, 0, False, lab[i, 0], lab[i, 1:])
                return lab[: len(pictures)]

            to_lab.is_parallel = True  # type: ignore[attr-defined]
            return to_lab

        def declare_state_and_memory(self, previous_state: Any) -> tuple[Any, Any]:
            height, width, _ = previous_state.shape
            made = {"shape": (3, height, width), "dtype": np.dtype("float32")}
            return replace(previous_state, jit_mode=True, **made), AllocationQuery(**made)

    return ToLab()


def write_beton(folder: str, out: str, threads: int) -> None:
    """A folder's JPEG files as FFCV's file, encoded anew at its default quality of 90."""
    from ffcv.fields import RGBImageField
    from ffcv.writer import DatasetWriter
    from PIL import Image

    class Pictures:
        paths = sorted(Path(folder).iterdir())

        def __len__(self) -> int:
            return len(self.paths)

        def __getitem__(self, index: int) -> tuple[Any]:
            return (Image.open(self.paths[index]).convert("RGB"),)

    DatasetWriter(out, {"rgb": RGBImageField(write_mode="jpg")}, num_workers=threads).from_indexed_dataset(Pictures())


def ours(name: str) -> Callable[[Task], Batches]:
    """One of our loaders, as it trains."""

    def batches(task: Task) -> Batches:
        loader = getattr(import_module("..pipelines", __package__), name)(
            task.data,
            batch_size=task.batch_size,
            size=task.size,
            train=True,
            crop=task.crop,
            threads=task.threads,
            device=task.device,
        )
        while True:
            for batch in loader:
                yield batch.L, batch.ab

    return batches


RIVALS: dict[str, Callable[[Task], Batches]] = {
    "original": original,
    "dali_kornia": dali_kornia,
    "ffcv_jpg": ffcv_jpg,
}


def measure(batches: Batches, task: Task) -> dict[str, Any]:
    """Images per second and what they cost, once all queues are as full as they stay."""

    arrived = (tuple(channels.to(task.device) for channels in batch) for batch in batches)

    def look() -> tuple[float, float]:
        L, ab = next(arrived)
        return L.mean().item(), ab.abs().mean().item()

    def wait() -> None:
        if task.device == "cuda":
            import torch

            torch.cuda.synchronize()

    means = [look()]
    first = time.monotonic() - task.started
    means += [look() for _ in range(task.warm_up)]
    for _ in range(_SETTLING):
        next(arrived)
    wait()
    began, own, busy, num_images = time.perf_counter(), _cpu_seconds(), _busy_seconds(), 0
    while time.perf_counter() - began < task.seconds or not num_images:
        num_images += len(next(arrived)[0])
    wait()
    seconds = time.perf_counter() - began
    own, busy = _cpu_seconds() - own, _busy_seconds() - busy
    return {
        "rate(images/s)": num_images / seconds,
        "cpu(ms/image)": 1e3 * own / num_images,
        "others(cores)": max(0.0, busy - own) / seconds,
        "first_batch(s)": first,
        "mean_L": sum(L for L, _ in means) / len(means),
        "mean_abs_ab": sum(ab for _, ab in means) / len(means),
        "versions": _versions(),
    }


def _cpu_seconds() -> float:
    """What this process and those that it has started have spent, in user and system mode."""
    import psutil

    process = psutil.Process()
    times = [each.cpu_times() for each in (process, *process.children(recursive=True))]
    return sum(spent.user + spent.system for spent in times)


def _busy_seconds() -> float:
    """What the whole machine has spent."""
    import psutil

    spent = psutil.cpu_times()
    return spent.user + spent.nice + spent.system + spent.irq + spent.softirq + spent.steal


def _versions() -> dict[str, str]:
    installed = {each.metadata["Name"].lower(): each.version for each in distributions()}
    used = (package for package, module in _PACKAGES.items() if module in sys.modules)
    return {package: installed[package] for package in used if package in installed}


def _files(task: Task) -> list[str]:
    return sorted(str(path) for path in Path(task.data).iterdir())


def main(argv: list[str]) -> int:
    name, fields = argv[0], json.loads(argv[1])
    try:
        if name == "write_beton":
            write_beton(**fields)
            found = {}
        else:
            task = Task(**fields)
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: task.threads])  # before anything counts them
            found = measure(RIVALS.get(name, ours(name))(task), task)
    except ImportError as error:
        found = {"skipped": str(error)}
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
