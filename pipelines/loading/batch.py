"""The batch that every loader yields."""

# Shapes: B samples, S pixels a side.

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class LabBatch:
    """Photographs in CIE Lab (D65, 2 degree observer) and their sample indices.

    L is float32 (B, 1, S, S) in [0, 100]; ab is float32 (B, 2, S, S) in Lab units, about -110 to 110; index is
    int64 (B,), each sample's number in its shard set, always on the CPU.
    """

    L: Tensor
    ab: Tensor
    index: Tensor

    def __len__(self) -> int:
        return self.L.shape[0]

    def __getitem__(self, part: slice) -> "LabBatch":
        return LabBatch(L=self.L[part], ab=self.ab[part], index=self.index[part])

    def split(self, parts: int) -> list["LabBatch"]:
        """Returns the batch as `parts` equal batches, in order; its size must be a multiple of `parts`."""
        size, rest = divmod(len(self), parts)
        if rest:
            raise ValueError(f"a batch of {len(self)} does not split into {parts} equal parts")
        return [self[i * size : (i + 1) * size] for i in range(parts)]
