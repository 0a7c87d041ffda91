"""FFCV over JPEGs, with this project's Lab kernel. In place of a squash it cuts the largest square."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .task import AREA, RATIO, Batches, Task, files

NEEDS = ("ffcv",)
INSTALL = "needs the system's OpenCV and libjpeg-turbo: name an environment that has it with --python"

_PASSES = 1000  # in an epoch


def batches(task: Task) -> Batches:
    import numpy as np
    from ffcv.fields.basics import IntDecoder
    from ffcv.fields.rgb_image import CenterCropRGBImageDecoder, RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import RandomHorizontalFlip, ToTensor

    shape = (task.size, task.size)
    if task.crop == "squash":
        cut = [CenterCropRGBImageDecoder(shape, ratio=1)]
    else:
        cut = [RandomResizedCropRGBImageDecoder(shape, scale=AREA, ratio=RATIO), RandomHorizontalFlip()]
    passes = [np.random.permutation(task.num_photographs) for _ in range(_PASSES)]
    loader = Loader(
        task.data,
        batch_size=task.batch_size,
        num_workers=task.threads,
        os_cache=True,
        order=OrderOption.SEQUENTIAL,  # of passes, each in random order, as an epoch begins with empty queues
        indices=np.concatenate(passes).astype(np.uint64),
        pipelines={"rgb": [*cut, _to_lab(), ToTensor()], "number": [IntDecoder(), ToTensor()]},
    )
    while True:
        for lab, numbers in loader:
            yield lab[:, :1], lab[:, 1:], numbers[:, 0]


def write(folder: str, out: str, threads: int) -> None:
    """Writes a folder's JPEGs as FFCV's file, encoded again at its default quality of 90."""
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter
    from PIL import Image

    class Pictures:
        paths = files(folder)

        def __len__(self) -> int:
            return len(self.paths)

        def __getitem__(self, number: int) -> tuple[Any, int]:
            return Image.open(Path(self.paths[number])).convert("RGB"), number

    fields = {"rgb": RGBImageField(write_mode="jpg"), "number": IntField()}
    DatasetWriter(out, fields, num_workers=threads).from_indexed_dataset(Pictures())


def _to_lab() -> Any:
    """Returns FFCV's operation from sRGB (S, S, 3) to Lab (3, S, S)."""
    from dataclasses import replace

    import numpy as np
    from ffcv.pipeline.allocation_query import AllocationQuery
    from ffcv.pipeline.compiler import Compiler
    from ffcv.pipeline.operation import Operation

    from ...pipelines.imaging.kernels import rgb_crop_to_lab as kernel

    class ToLab(Operation):  # type: ignore[misc]
        def generate_code(self) -> Callable[..., Any]:
            prange = Compiler.get_iterator()

            def to_lab(pictures, lab):  # type: ignore[no-untyped-def]
                for i in prange(len(pictures)):
                    kernel(pictures[i], 0, 0, False, lab[i, 0], lab[i, 1:])
                return lab[: len(pictures)]

            to_lab.is_parallel = True  # type: ignore[attr-defined]
            return to_lab

        def declare_state_and_memory(self, previous_state: Any) -> tuple[Any, Any]:
            height, width, _ = previous_state.shape
            made = {"shape": (3, height, width), "dtype": np.dtype("float32")}
            return replace(previous_state, jit_mode=True, **made), AllocationQuery(**made)

    return ToLab()
