"""Statistics of a shard set: counts, sizes, classes, colours."""

from typing import Any

import numpy as np

from ..shards import ShardSet


def stats(data: ShardSet) -> dict[str, Any]:
    """Returns statistics of a shard set, as plain JSON; sizes are in pixels, chroma in Lab units."""
    from ...losses.quantization import ab_bins  # loads torch

    heights, widths = data.sizes.T
    counts = data.manifest["counts"]
    num_grey = counts["grey"] + counts["dropped"].get("grey", 0)
    num_decoded = data.num_samples + sum(counts["dropped"].values())
    chroma = np.linalg.norm(ab_bins().double().numpy(), axis=1)
    return {
        "num_photographs": data.num_samples,
        "num_shards": len(data.shards),
        "bytes": sum(shard.bytes for shard in data.shards),
        "store": data.store,
        "bytes_per_photograph": float(data.byte_ranges[:, 1].mean()),
        "width": _spread(widths),
        "height": _spread(heights),
        "megapixels": _spread(widths * heights / 1e6),
        "num_duplicates": counts["duplicates"],
        "grey_percent": 100 * num_grey / num_decoded,
        "num_grey_dropped": counts["dropped"].get("grey", 0),
        "num_rejected": sum(counts["rejected"].values()),
        "mean_chroma": float(data.prior @ chroma),
        "classes": data.manifest["classes"],
    }


def _spread(values: Any) -> dict[str, float]:
    return {"min": float(values.min()), "median": float(np.median(values)), "max": float(values.max())}
