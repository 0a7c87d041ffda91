"""Statistics of a shard set: counts, sizes, classes, colours."""

from pathlib import Path
from typing import Any

import numpy as np

from ..shards import ShardSet

_LIGHTNESS = 65.0  # at which the plot shows the colours of the bins


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


def plot_ab_distribution(data: ShardSet, path: Path) -> None:
    """Plots how the set's colours are distributed over the 313 ab bins."""
    from matplotlib.figure import Figure
    from skimage.color import lab2rgb

    from ...losses.quantization import ab_bins

    bins = ab_bins().numpy()
    share = data.prior / data.prior.max()
    figure = Figure(figsize=(11, 5), layout="constrained")
    log_axes, colour_axes = figure.subplots(1, 2)
    squares = log_axes.scatter(
        bins[:, 1], bins[:, 0], c=np.log10(np.maximum(data.prior, 1e-7)), s=62, marker="s", cmap="magma", vmin=-7
    )
    figure.colorbar(squares, ax=log_axes, label="log10 of the share of pixels")
    colours = lab2rgb(np.column_stack([np.full(len(bins), _LIGHTNESS), bins])[None])[0].clip(0, 1)
    colour_axes.scatter(bins[:, 1], bins[:, 0], c=colours, s=3 + 400 * np.sqrt(share), edgecolors="none", alpha=0.9)
    for axes, title in (
        (log_axes, "share of each of the 313 bins"),
        (colour_axes, "their colours; the area grows with the root of the share"),
    ):
        axes.set(title=title, xlabel="b", ylabel="a", aspect="equal", xlim=(-118, 118), ylim=(118, -98))
    figure.suptitle(f"{data.root.name or data.root.resolve().name}: {data.num_samples:,} photographs")
    figure.savefig(path, dpi=100)


def _spread(values: Any) -> dict[str, float]:
    return {"min": float(values.min()), "median": float(np.median(values)), "max": float(values.max())}
