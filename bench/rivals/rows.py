"""Makes rows and the verdict of measurements."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

from .entries import BASELINE, OTHER_PARTS, RIVALS, SQUASH, STEP, Entry

# Mean absolute differences of L and ab from scikit-image, in Lab units, that count as the same. Filters differ by 0.4
# to 0.8 and 0.3 to 0.5 (area, linear, bicubic), JPEGs of squashed photographs by up to 0.6 and 1.4.
TOLERANCE_L, TOLERANCE_AB = 1.0, 1.5
TOLERANCE_LOSS = 1e-4  # relative, of the first step in fp32

Row = dict[str, Any]


def loader_row(entry: Entry, measurements: Sequence[Row], baseline: Sequence[Row], check: Row | None) -> Row:
    """Returns the row of an entry's measurements, relative to the baseline's of the same rounds, and of its check."""
    other_part = OTHER_PARTS.get(entry.loader) if entry.job == SQUASH else None
    return {
        "job": entry.job,
        "loader": entry.loader,
        "reads": entry.reads,
        "crop": other_part or entry.crop or entry.job,
        "is_ours": entry.loader not in RIVALS,
        **_throughputs(_of("rate(img/s)", measurements), _of("rate(img/s)", baseline)),
        **{key: statistics.median(_of(key, measurements)) for key in ("cpu(ms/img)", "first_batch(s)")},
        **(_quality(check, comparable=other_part is None) if check else {}),
        "versions": measurements[0]["versions"],
    }


def step_rows(result: Row) -> list[Row]:
    """Returns the rows of train_step.py. The engine's fp32 step is the same if its first loss is."""
    throughputs, losses = result["rates(img/s)"], result["first_loss"]
    return [
        {
            "job": STEP,
            "loader": name,
            "reads": f"one batch of {result['batch_size']}",
            "crop": SQUASH,
            "is_ours": name != BASELINE,
            **_throughputs(values, throughputs[BASELINE]),
            "first_loss": losses[name],
            "is_same": math.isclose(losses[name], losses[BASELINE], rel_tol=TOLERANCE_LOSS) if "fp32" in name else None,
        }
        for name, values in throughputs.items()
    ]


def verdict(rows: Sequence[Row]) -> str:
    """Returns the fastest entry of each kind at each job, and the entries whose results differ."""
    fastest: dict[tuple[str, str], Row] = {}
    for row in sorted(rows, key=lambda row: float(row["median(img/s)"])):
        if row["job"] != STEP:
            fastest[row["job"], _kind(row)] = row
    best = [
        f"{job} by {kind}: {row['loader']}:{row['reads']} {row['median(img/s)']:,.0f} images/s"
        for (job, kind), row in sorted(fastest.items())
    ]
    steps = [
        f"a training step of {row['loader']} is {row['median(ratio)']:.2f} times as fast as the original's"
        for row in rows
        if row["job"] == STEP and row["is_ours"]
    ]
    different = [f"{row['loader']}:{row['reads']}" for row in rows if row.get("is_same") is False]
    parts = [*(["fastest at " + "; ".join(best)] if best else []), *steps]
    parts += ["NOT THE SAME RESULT: " + ", ".join(different)] if different else []
    return "; ".join(parts) or "no entry could run"


def _throughputs(values: list[float], baseline: list[float]) -> Row:
    """Returns the median and spread of throughputs, and of their ratios to the baseline's in the same rounds."""
    columns = {**_spread("img/s", values), "num_rounds": len(values)}
    if baseline:
        columns |= _spread("ratio", [value / base for value, base in zip(values, baseline, strict=True)])
    return columns


def _spread(what: str, values: list[float]) -> Row:
    return {f"median({what})": statistics.median(values), f"min({what})": min(values), f"max({what})": max(values)}


def _quality(check: Row, *, comparable: bool) -> Row:
    """Returns the check and whether results are the same; without errors if another part of the photograph is shown."""
    if not comparable:
        return {key: value for key, value in check.items() if not key.startswith("error")} | {"is_same": None}
    return check | {"is_same": check["error_L"] <= TOLERANCE_L and check["error_ab"] <= TOLERANCE_AB}


def _kind(row: Row) -> str:
    if not row["is_ours"]:
        return "others"
    return "photochrom" if row["reads"] == "originals" else "photochrom, prepared"


def _of(key: str, measurements: Sequence[Row]) -> list[float]:
    return [measurement[key] for measurement in measurements]
