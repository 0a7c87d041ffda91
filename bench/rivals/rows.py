"""What was measured as rows, and in a sentence."""

import statistics
from collections.abc import Sequence
from typing import Any

from .entries import BASELINE, NOTHING, OTHER_PARTS, RIVALS, SQUASH, STEP, Entry

# Mean absolute differences from scikit-image, in Lab units, up to which L and ab count as the same. Filters make 0.4 to
# 0.8 and 0.3 to 0.5 (area, linear, bicubic), JPEGs of squashed photographs up to 0.6 and 1.4.
TOLERANCE_L, TOLERANCE_AB = 1.0, 1.5
TOLERANCE_LOSS = 1e-4  # relative, of the first step in fp32

Row = dict[str, Any]


def loader_row(entry: Entry, turns: Sequence[Row], baseline: Sequence[Row], check: Row | None) -> Row:
    """A entry's turns, beside the baseline's of the same rounds, and what was checked."""
    other_part = OTHER_PARTS.get(entry.loader) if entry.job == SQUASH else None
    return {
        "job": entry.job,
        "loader": entry.loader,
        "reads": entry.reads,
        "crop": other_part or entry.crop or entry.job,
        "is_ours": entry.loader not in RIVALS,
        **_rates(_of("rate(img/s)", turns), _of("rate(img/s)", baseline)),
        **{key: statistics.median(_of(key, turns)) for key in ("cpu(ms/img)", "first_batch(s)")},
        "others(cores)": max(_of("others(cores)", turns)),
        **(_quality(check, comparable=other_part is None) if check else {}),
        "versions": turns[0]["versions"],
    }


def step_rows(found: Row) -> list[Row]:
    """What stepping.py has found. The engine's in fp32 is the same if it begins with the same loss."""
    rates, losses = found["rates(img/s)"], found["first_loss"]
    return [
        {
            "job": STEP,
            "loader": name,
            "reads": f"one batch of {found['batch_size']}",
            "crop": SQUASH,
            "is_ours": name != BASELINE,
            **_rates(values, rates[BASELINE]),
            "first_loss": losses[name],
            "is_same": _same_loss(losses[name], losses[BASELINE]) if "fp32" in name else None,
        }
        for name, values in rates.items()
    ]


def verdict(rows: Sequence[Row]) -> str:
    """The fastest of each kind at each job, and who does not do the same."""
    fastest: dict[tuple[str, str], Row] = {}
    for row in sorted(rows, key=lambda row: float(row["median(img/s)"])):
        if row["job"] not in (NOTHING, STEP):
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
    return "; ".join(parts) or "none of them could run"


def _rates(rates: list[float], baseline: list[float]) -> Row:
    """Median and spread of rates, and of their ratios to those of the baseline in the same rounds."""
    found = {**_spread("img/s", rates), "num_rounds": len(rates)}
    if baseline:
        found |= _spread("ratio", [rate / base for rate, base in zip(rates, baseline, strict=True)])
    return found


def _spread(what: str, values: list[float]) -> Row:
    return {f"median({what})": statistics.median(values), f"min({what})": min(values), f"max({what})": max(values)}


def _quality(check: Row, *, comparable: bool) -> Row:
    """What was checked, and whether it is the same; no errors where another part of the photograph is shown."""
    if not comparable:
        return {key: value for key, value in check.items() if not key.startswith("error")} | {"is_same": None}
    return check | {"is_same": check["error_L"] <= TOLERANCE_L and check["error_ab"] <= TOLERANCE_AB}


def _same_loss(loss: float, baseline: float) -> bool:
    return abs(loss / baseline - 1) <= TOLERANCE_LOSS


def _kind(row: Row) -> str:
    if not row["is_ours"]:
        return "others"
    return "ours" if row["reads"] == "originals" else "ours, prepared"


def _of(key: str, turns: Sequence[Row]) -> list[float]:
    return [turn[key] for turn in turns]
