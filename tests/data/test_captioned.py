"""Captioned pictures of the field's sets: what holds no picture or no caption is one line."""

import pyarrow
import pyarrow.parquet
import pytest

from omni_lab.data import captioned
from omni_lab.errors import DataError


@pytest.mark.parametrize(
    "row",
    [
        {"image": {"path": "a.png"}, "caption": "A square."},
        {"image": {"bytes": None, "path": "a.png"}, "caption": "A square."},
        {"image": 5, "caption": "A square."},
        {"image": "a.png", "caption": "A square."},
        {"image": b"no picture", "caption": "A square."},
        {"image": b"a picture", "caption": 5},
    ],
)
def test_rows_of_another_form_are_one_line(tmp_path, row):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"x\.parquet 0\.0 (has no image|holds no picture)") as caught:
        captioned.load(tmp_path)
    assert "\n" not in str(caught.value)
