"""Tables as arrays: what they write is what pandas writes, and what they read is what was written."""

import io

import numpy as np
import pandas as pd
import pytest

from helixsim.errors import DataError
from helixsim.results.columns import column, csv_lines, joined, of_rows, of_system, texts
from helixsim.results.files import read_columns, write_csv

TABLE = {
    "node": texts(["a", "b, c", 'd"e', "two\nlines"]),
    "busy_share": np.array([0.1234567890123, np.nan, 1e-12, 3.0]),
    "kv_tokens": np.array([0, -1, 2**53, 7]),
    "=formula": texts(["-1", "plain", "", "x"]),
}


def test_arrays_are_written_as_pandas_writes_them():
    stream = io.StringIO()
    pd.DataFrame(TABLE).rename(columns={"=formula": "'=formula"}).to_csv(
        stream, index=False, float_format="%.9g", lineterminator="\n"
    )
    assert csv_lines(TABLE) == stream.getvalue()
    assert csv_lines(pd.DataFrame(TABLE)) == stream.getvalue()


def test_missing_cells_of_a_data_frame_are_empty():
    frame = pd.DataFrame({"i": pd.array([1, None], dtype="Int64"), "t": ["a", None], "f": [np.nan, 2.5]})
    assert csv_lines(frame) == "i,t,f\n1,a,\n,,2.5\n"


def test_tables_read_back_are_those_that_were_written(tmp_path):
    table = of_system("=1+1", {**{name: TABLE[name] for name in ("node", "busy_share", "kv_tokens")}})
    write_csv(tmp_path / "t.csv", table)
    found = read_columns(tmp_path / "t.csv")
    assert found["system"].tolist() == ["=1+1"] * 4
    assert found["node"].tolist() == TABLE["node"].tolist()
    assert found["kv_tokens"].dtype == np.int64
    np.testing.assert_array_equal(found["kv_tokens"], TABLE["kv_tokens"])
    np.testing.assert_allclose(found["busy_share"], TABLE["busy_share"], rtol=1e-8)


def test_a_system_whose_name_is_a_number_keeps_its_rows(tmp_path):
    write_csv(tmp_path / "t.csv", of_system("24", {"count": np.array([1, 2])}))
    assert read_columns(tmp_path / "t.csv")["system"].tolist() == ["24", "24"]


@pytest.mark.parametrize("text", ["", "system,count\na,x\n", "system,count\na,1,2\n", "system,count\na\n"])
def test_a_damaged_table_is_refused(tmp_path, text):
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="cannot be read"):
        read_columns(tmp_path / "t.csv")


def test_rows_become_columns_in_the_order_of_their_names():
    table = of_rows([{"a": 1, "b": "x"}, {"b": "y", "c": None, "a": 2}])
    assert list(table) == ["a", "b", "c"]
    assert table["a"].tolist() == [1, 2]
    assert np.isnan(table["c"]).all()
    assert column([1, None]).dtype == np.float64
    assert joined([table, table])["b"].tolist() == ["x", "y", "x", "y"]
