from pathlib import Path

import polars as pl
import pytest

from tamis.data.rows import Rows

FRAME = pl.DataFrame({"item_id": ["a", "ü"], "keywords": [["x", "y"], None], "quality": [None, 0.5], "n": [1, None]})


def test_rows_come_back_without_their_nulls(tmp_path: Path) -> None:
    Rows.of(FRAME).save(tmp_path, "rows")
    rows = Rows.load(tmp_path, "rows")
    assert len(rows) == 2
    assert rows[0] == {"item_id": "a", "keywords": ["x", "y"], "n": 1}
    assert rows[1] == {"item_id": "ü", "quality": 0.5}


def test_a_row_that_is_not_there_is_an_error_and_an_empty_table_has_none() -> None:
    for rows, number in ((Rows.of(FRAME), 2), (Rows.of(FRAME), -1), (Rows.of(FRAME[:0]), 0)):
        with pytest.raises(IndexError):
            rows[number]
