from pathlib import Path

import numpy as np
from photochrom.engine.evaluation.row_file import RowFile


def test_rows_survive_damaged_ends_of_files(tmp_path: Path) -> None:
    fields = np.dtype([("index", "<i8"), ("x", "<f4")])
    rows = np.array([(i, i / 2) for i in range(5)], fields)
    file = RowFile(tmp_path / "rows", fields)
    assert len(file.read()) == 0
    file.append(rows[:3])
    file.append(rows[3:])
    whole = (tmp_path / "rows").read_bytes()
    (tmp_path / "rows").write_bytes(whole[:-3])  # cut off by a kill
    assert RowFile(tmp_path / "rows", fields).read().tolist() == rows[:3].tolist()  # the last row may be damaged, too
    (tmp_path / "rows").write_bytes(whole[:24] + bytes(len(whole) - 24))  # emptied by a power cut
    assert RowFile(tmp_path / "rows", fields).read().tolist() == rows[:1].tolist()
    (tmp_path / "rows").write_bytes(bytes(12))
    assert len(RowFile(tmp_path / "rows", fields)) == 0
