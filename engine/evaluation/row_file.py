"""A file with one row per photograph, which survives whatever ends the process."""

import os
from pathlib import Path

import numpy as np

from .score import Rows


class RowFile:
    """The first rows of a set. Row k is that of photograph k, as its field `index` says.

    Opening a file drops its last row, and all that is not a row: a killed process or a power cut can leave the end
    half written.
    """

    def __init__(self, path: Path, fields: np.dtype[np.void]) -> None:
        self._path, self._fields = path, fields
        path.touch()
        self._length = path.stat().st_size // fields.itemsize
        index = self.read()["index"]
        wrong = np.flatnonzero(index != np.arange(len(index)))  # after a power cut, a file can end in zeros
        self._length = max(0, (int(wrong[0]) if len(wrong) else len(index)) - 1)
        os.truncate(path, self._length * fields.itemsize)

    def __len__(self) -> int:
        return self._length

    def append(self, rows: Rows) -> None:
        """Adds the rows of the next photographs."""
        assert rows["index"].tolist() == list(range(self._length, self._length + len(rows)))
        with open(self._path, "ab") as file:
            file.write(rows.tobytes())
        self._length += len(rows)

    def read(self) -> Rows:
        """Returns all rows, memory-mapped."""
        if self._length == 0:
            return np.empty(0, self._fields)
        return np.memmap(self._path, self._fields, "r", shape=(self._length,))
