"""Statistics of a shard set: counts, sizes, classes, colours."""

from collections import Counter
from typing import Any

import numpy as np

from ..shards import ShardSet

_NUM_CLASSES = 10  # named; the manifest has all
_STORES = {"jpeg": "", "lab": ", as Lab in bytes"}


def stats(data: ShardSet) -> dict[str, str]:
    """Returns statistics of a shard set in words, by their names."""
    from ...losses.quantization import ab_bins  # loads torch

    heights, widths = data.sizes.T
    counts, classes = data.manifest["counts"], Counter(data.manifest["classes"])
    num_bytes, num_grey_dropped = data.byte_ranges[:, 1].mean(), counts["dropped"].get("grey", 0)
    num_decoded = data.num_samples + sum(counts["dropped"].values())
    grey = 100 * (counts["grey"] + num_grey_dropped) / num_decoded
    rows = {
        "photographs": f"{data.num_samples:,}",
        "shards": f"{len(data.shards):,}, {sum(shard.bytes for shard in data.shards) / 1e9:,.3f} GB",
        "stored": f"{num_bytes / 1e3:,.1f} KB per photograph{_STORES[data.store]}",
        "width": _range(widths),
        "height": _range(heights),
        "megapixels": _range(widths * heights / 1e6),
        "grey": f"{grey:.2f} % of all photographs; {num_grey_dropped:,} dropped",
        "exact duplicates": f"{counts['duplicates']:,}",
        "rejected": f"{sum(counts['rejected'].values()):,}",
        "mean chroma": f"{data.prior @ np.linalg.norm(ab_bins().double().numpy(), axis=1):.1f} Lab units",
        "classes": f"{len(classes):,}",
    }
    rows |= {f"  {name or '(none)'}": f"{number:,}" for name, number in classes.most_common(_NUM_CLASSES)}
    return rows | ({"  and others": f"{len(classes) - _NUM_CLASSES:,}"} if len(classes) > _NUM_CLASSES else {})


def _range(values: Any) -> str:
    return f"{values.min():g} to {values.max():g}, median {np.median(values):g}"
