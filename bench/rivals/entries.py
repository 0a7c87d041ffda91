"""Entries of the comparison: loaders, their jobs, and the data sets that they read."""

from dataclasses import dataclass
from typing import Any

# Rivals and the data sets they read. A rival is the module of its name; its `write` makes its data set.
RIVALS = {
    "original": "files",
    "opencv": "files",
    "dali_kornia": "files",
    "webdataset_pil": "tars",
    "litdata": "chunks",
    "mosaicml": "mds",
    "hf_datasets": "arrow",
    "ffcv": "beton",
}
WRITERS = {reads: rival for rival, reads in RIVALS.items() if reads != "files"}

# Rivals whose squash shows another part of the photograph, so that pixels cannot be compared.
OTHER_PARTS = {"ffcv": "the largest square"}

# Shard sets: source and options of pack. Reduced sets have a short side of 9/8 of the size, 288 for 256.
SETS: dict[str, tuple[str, dict[str, Any]]] = {
    "originals": ("files", {"short_side": "none"}),
    "reduced": ("files", {}),
    "squashed": ("squares", {}),
    "lab_reduced": ("files", {"store": "lab"}),
    "lab_squashed": ("squares", {"store": "lab"}),
}

SQUASH, RANDOM, STEP = "squash", "random_resized", "training step"
BASELINE = "original"

_DECODERS = ("DaliLoader", "TorchLoader")
_PREFIXES = ("", "lab_")


@dataclass(frozen=True)
class Entry:
    """A loader at a job: the data set it reads, and its crop if not the job's."""

    job: str
    loader: str
    reads: str
    crop: str = ""

    @property
    def names(self) -> tuple[str, str, str]:
        """Names for --only."""
        return self.loader, f"{self.loader}:{self.reads}", f"{self.loader}:{self.reads}:{self.job}"


def _prepared(job: str, dataset: str, crop: str = "") -> list[Entry]:
    """Returns this project's loaders on shard sets made for the job."""
    decoders = [Entry(job, loader, prefix + dataset, crop) for loader in _DECODERS for prefix in _PREFIXES]
    return [*decoders, Entry(job, "CachedLoader", dataset, crop)]


ENTRIES = (
    *(Entry(job, rival, reads) for job in (SQUASH, RANDOM) for rival, reads in RIVALS.items()),
    *(Entry(job, loader, "originals") for job in (SQUASH, RANDOM) for loader in (*_DECODERS, "CachedLoader")),
    *_prepared(SQUASH, "squashed"),
    *_prepared(RANDOM, "reduced", crop="random"),
)
