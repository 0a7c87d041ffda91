"""Entries of the comparison: loaders, the data sets that they read, and crops."""

from dataclasses import dataclass
from typing import Any

# Modules here, and the data sets they read. The module that reads a format of its own also writes it.
RIVALS = {
    "original": "files",
    "opencv": "files",
    "dali_kornia": "files",
    "webdataset_pil": "tars",
    "litdata": "chunks",
    "hf_datasets": "arrow",
}
WRITERS = {reads: rival for rival, reads in RIVALS.items() if reads != "files"}

# Shard sets: source and options of pack. Reduced sets have a short side of 9/8 of the size, 288 for 256.
SETS: dict[str, tuple[str, dict[str, Any]]] = {
    "originals": ("files", {"short_side": "none"}),
    "reduced": ("files", {}),
    "squashed": ("squares", {}),
    "lab_reduced": ("files", {"store": "lab"}),
    "lab_squashed": ("squares", {"store": "lab"}),
}

SQUASH, RANDOM_RESIZED, RANDOM = "squash", "random_resized", "random"
BASELINE = "original"

_LOADERS = ("DaliLoader", "TorchLoader", "CachedLoader")


@dataclass(frozen=True)
class Entry:
    """A loader, the data set it reads, and its crop."""

    loader: str
    reads: str
    crop: str

    def __str__(self) -> str:
        return f"{self.loader}:{self.reads}:{self.crop}"

    @property
    def is_squashed(self) -> bool:
        """True for the job of squashed photographs, False for that of random crops."""
        return self.crop == SQUASH

    @property
    def kind(self) -> str:
        """The group of entries to compare it with."""
        job = "squashed" if self.is_squashed else "random crops"
        if self.loader in RIVALS:
            return f"{job}, others"
        return f"{job}, photochrom" + ("" if self.reads == "originals" else " from a set made for the job")

    def matches(self, name: str) -> bool:
        """True for the entry's name, and for what it begins with, up to a colon."""
        return f"{self}:".startswith(f"{name}:")


ENTRIES = [
    *(Entry(rival, reads, crop) for crop in (SQUASH, RANDOM_RESIZED) for rival, reads in RIVALS.items()),
    *(Entry(loader, "originals", crop) for crop in (SQUASH, RANDOM_RESIZED) for loader in _LOADERS),
    # Sets made for the job.
    *(Entry(loader, reads, SQUASH) for loader in _LOADERS for reads in ("squashed", "lab_squashed")),
    *(Entry(loader, reads, RANDOM) for loader in _LOADERS for reads in ("reduced", "lab_reduced")),
]
