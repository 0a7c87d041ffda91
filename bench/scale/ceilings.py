"""Ceilings that `bench stalls` has measured on a machine, in place of the estimates of its file."""

import json
import statistics
from pathlib import Path
from typing import Any

from ..stalls.feed_stages import DECODE, NETWORK
from .prediction import Ceilings

_FIX = "make it with 'photochrom bench stalls --config RECIPE --data SHARDS --out stalls.json'"


def load_ceilings(path: Path, width: float, size: int) -> Ceilings:
    """Returns the ceilings in a result of `bench stalls` for this width and size. Raises ValueError for other files."""
    try:
        results = json.loads(path.read_text())
        rows = {row["adds"]: row for row in results["rows"]}
        settings, cold = results["settings"], results["cold_reading(img/s)"]
        network, decoding = rows[NETWORK]["median(img/s)"], rows[DECODE]["alone(img/s)"]
        measured = settings["model"]["init_args"].get("width", 1.0), settings["data"]["size"]
    except OSError as error:
        raise ValueError(f"--ceilings {path} cannot be read ({error.strerror}): {_FIX}") from None
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ValueError(f"--ceilings {path} is not a result of bench stalls: {_FIX}") from None
    if measured != (width, size):
        raise ValueError(
            f"--ceilings {path} was measured with width {measured[0]:g} and size {measured[1]}: give "
            f"--width {measured[0]:g} --size {measured[1]}, or measure again"
        )
    return Ceilings(
        step=1 / network,
        load=1 / decoding,
        threads=_threads(results),
        on_device=results["machine"]["device"] != "cpu" and settings["loader"]["backend"] in ("auto", "dali"),
        disk=statistics.median(cold) if cold else None,
    )


def _threads(results: dict[str, Any]) -> int:
    """Returns the number of cores that decoded."""
    cores = int(results["machine"]["cores"])
    return min(cores, results["settings"]["loader"]["threads"] or cores)
