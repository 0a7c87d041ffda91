"""What `bench stalls` has measured on a machine, to replace what its file estimates."""

import json
import statistics
from pathlib import Path
from typing import Any

from ..stalls.feed_stages import DECODE, NETWORK
from .prediction import Ceilings

_MEND = "make it with 'photochrom bench stalls --config RECIPE --data SHARDS --out stalls.json'"


def load_ceilings(path: Path, width: float, size: int) -> Ceilings:
    """The ceilings in a result of `bench stalls` of that network at that size. Raises ValueError for any other file."""
    try:
        found = json.loads(path.read_text())
        rows = {row["adds"]: row for row in found["rows"]}
        settings, cold = found["settings"], found["cold_reading(img/s)"]
        network, decoding = rows[NETWORK]["median(img/s)"], rows[DECODE]["alone(img/s)"]
        measured = settings["model"]["init_args"].get("width", 1.0), settings["data"]["size"]
    except OSError as error:
        raise ValueError(f"--ceilings {path} cannot be read ({error.strerror}): {_MEND}") from None
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ValueError(f"--ceilings {path} is no result of bench stalls: {_MEND}") from None
    if measured != (width, size):
        raise ValueError(
            f"--ceilings {path} are those of a network of width {measured[0]:g} at {measured[1]} pixels: give "
            f"--width {measured[0]:g} --size {measured[1]}, or measure anew"
        )
    return Ceilings(
        step=1 / network,
        ready=1 / decoding,
        threads=_threads(found),
        on_device=found["machine"]["device"] != "cpu" and settings["loader"]["backend"] in ("auto", "dali"),
        disk=statistics.median(cold) if cold else None,
    )


def _threads(found: dict[str, Any]) -> int:
    """The cores that made photographs ready."""
    cores = int(found["machine"]["cores"])
    return min(cores, found["settings"]["loader"]["threads"] or cores)
