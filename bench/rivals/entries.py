"""Who takes part, at which job, and what each of them reads."""

from dataclasses import dataclass
from typing import Any

# A rival is the module of its name. It reads the photographs as files, or what its `write` makes of them.
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

# Whose squash shows another part of the photograph, and which: its pixels cannot be compared.
OTHER_PARTS = {"ffcv": "the largest square"}

# The shard sets: what is packed, and how. Reduced ones have a short side of 9/8 of the size, 288 for 256.
SETS: dict[str, tuple[str, dict[str, Any]]] = {
    "originals": ("files", {"short_side": "none"}),
    "reduced": ("files", {}),
    "squashed": ("squares", {}),
    "lab_reduced": ("files", {"store": "lab"}),
    "lab_squashed": ("squares", {"store": "lab"}),
}

SQUASH, RANDOM, NOTHING, STEP = "squash", "random_resized", "nothing", "training step"
BASELINE = "original"

_DECODERS = ("DaliLoader", "TorchLoader")
_KINDS = ("", "lab_")


@dataclass(frozen=True)
class Entry:
    """A rival or a loader of ours, at one job: what it reads, how it cuts if not as the job says."""

    job: str
    loader: str
    reads: str
    crop: str = ""

    @property
    def names(self) -> tuple[str, str, str]:
        """What --only may call it."""
        return self.loader, f"{self.loader}:{self.reads}", f"{self.loader}:{self.reads}:{self.job}"


def _prepared(job: str, made: str, crop: str = "") -> list[Entry]:
    """Ours on sets that were made for the job."""
    decoders = [Entry(job, loader, kind + made, crop) for loader in _DECODERS for kind in _KINDS]
    return [*decoders, Entry(job, "CachedLoader", made, crop)]


CONTESTANTS = (
    *(Entry(job, rival, reads) for job in (SQUASH, RANDOM) for rival, reads in RIVALS.items()),
    *(Entry(job, loader, "originals") for job in (SQUASH, RANDOM) for loader in (*_DECODERS, "CachedLoader")),
    *_prepared(SQUASH, "squashed"),
    *_prepared(RANDOM, "reduced", crop="random"),
    Entry(NOTHING, "SyntheticLoader", "originals", crop="squash"),
)
