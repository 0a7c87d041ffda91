"""DALI as in its guides, on a GPU if the batches go there, and Kornia's rgb_to_lab."""

from kornia.color import rgb_to_lab
from nvidia.dali import Pipeline, fn, types
from nvidia.dali.plugin.pytorch import DALIGenericIterator, LastBatchPolicy

from .task import AREA, RATIO, SQUASH, Batches, Task, files


def batches(task: Task) -> Batches:
    on_gpu = task.device == "cuda"
    decoder = "mixed" if on_gpu else "cpu"  # the operations after it run on the same device
    pipeline = Pipeline(batch_size=task.batch_size, num_threads=task.threads, device_id=0 if on_gpu else None, seed=0)
    with pipeline:
        jpegs, numbers = fn.readers.file(files=files(task.data), random_shuffle=True, name="files")
        if task.crop == SQUASH:
            pictures, mirror = fn.decoders.image(jpegs, device=decoder), 0
        else:
            pictures = fn.decoders.image_random_crop(jpegs, device=decoder, random_area=AREA, random_aspect_ratio=RATIO)
            mirror = fn.random.coin_flip()
        pictures = fn.resize(pictures, size=(task.size, task.size))
        planes = {"dtype": types.FLOAT, "output_layout": "CHW", "std": [255.0] * 3}
        pipeline.set_outputs(fn.crop_mirror_normalize(pictures, mirror=mirror, **planes), numbers)
    loader = DALIGenericIterator(
        pipeline, ["rgb", "number"], reader_name="files", last_batch_policy=LastBatchPolicy.DROP, auto_reset=True
    )
    while True:
        for (batch,) in loader:
            lab = rgb_to_lab(batch["rgb"])
            yield lab[:, :1], lab[:, 1:], batch["number"][:, 0]
