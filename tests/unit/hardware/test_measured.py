"""Timing and limit tables: taken at their word, or refused with the row."""

from pathlib import Path

import pytest

from helixsim.errors import DataError
from helixsim.hardware import catalog, measured

TIMINGS = """model,gpu,phase,batch_tokens,ms_per_layer
llama70b,L4,prompt,0,0.0
llama70b,L4,prompt,250,12.0
llama70b,L4,prompt,500,20.0
llama70b,L4,decode,0,0
llama70b,L4,decode,4,7.0
llama70b,L4,decode,2,6.9
"""
LIMITS = """gpu,layers,kv_tokens_per_layer,prompt_max_requests,prompt_max_tokens,decode_max_tokens,remark
mine,1,3200,1,2048,380,x
mine,2,1600,1,2048,280,
T4x4,1,4800,2,4096,100,
"""
MODEL = catalog.load_model("llama-2-70b")


def _write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "table.csv"
    path.write_text(text)
    return path


def test_a_table_is_reproduced_at_its_points_and_between(tmp_path: Path) -> None:
    (timings,) = measured.read_timings(_write(tmp_path, TIMINGS))
    assert (timings.model, timings.kind) == ("llama-2-70b", "l4")
    profile = measured.compute_profile(timings, MODEL, "here")
    assert profile.source == "measured"
    for tokens, ms in timings.prefill:
        assert profile.prefill_ns(3, int(tokens)) == 3 * ms * 1e6
    for seqs, ms in timings.decode:
        assert profile.decode_ns(2, int(seqs)) == 2 * ms * 1e6
    assert profile.prefill(375) == pytest.approx(16e6)
    assert profile.decode(1) == pytest.approx(3.45e6)  # the table's own point (0, 0) is kept
    # 16 384 B at 4 GB/s and again at 5 GB/s
    assert profile.activation_copy_ns_per_token == pytest.approx(16384 * (0.25 + 0.2))


def test_a_table_without_models_serves_any(tmp_path: Path) -> None:
    rows = [line.split(",", 1)[1] for line in TIMINGS.splitlines()]
    tables = measured.read_timings(_write(tmp_path, "\n".join(rows)))
    assert measured.find(tables, "anything", "l4") is tables[0]
    assert measured.find(tables, "anything", "t4") is None


def test_the_named_model_comes_before_any(tmp_path: Path) -> None:
    rows = TIMINGS.splitlines()
    anonymous = [row.replace("llama70b", "") for row in rows[1:]]
    tables = measured.read_timings(_write(tmp_path, "\n".join([rows[0], *anonymous, *rows[1:]])))
    found = measured.find(tables, "llama-2-70b", "l4")
    assert found is not None
    assert found.model == "llama-2-70b"


def test_limits_are_read_as_they_stand(tmp_path: Path) -> None:
    mine, t4x4 = measured.read_limits(_write(tmp_path, LIMITS))
    assert mine.kv_tokens == (3200, 1600)
    assert [limits.max_decode_seqs for limits in mine.batch] == [380, 280]
    assert t4x4.kind == "t4x4"
    assert t4x4.batch[0].max_prefill_tokens == 4096


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("prompt,500", "promt,500", r"row 3 \(line 4\): unknown phase 'promt'; did you mean 'prompt'"),
        ("500,20.0", "500,abc", "row 3 .*ms_per_layer: expected a number"),
        ("500,20.0", "500,nan", "row 3 .*ms_per_layer: expected a number"),
        ("500,20.0", "500,-1", "row 3 .*ms_per_layer: expected a number of at least 0"),
        ("500,20.0", "500,0", "row 3 .*must be above zero"),
        ("500,20.0", "250,20.0", "row 3 .*given before"),
        ("500,20.0", "500,", "row 3 .*ms_per_layer is empty"),
        ("500,20.0", "500", "row 3 .*5 cells"),
        ("500,20.0", "500,20.0,7", "row 3 .*5 cells"),
        ("ms_per_layer", "ms_per_layr", "no column 'ms_per_layer'; did you mean 'ms_per_layr'"),
        ("decode", "prefill,9", "cells"),
    ],
)
def test_timing_faults(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in TIMINGS
    with pytest.raises(DataError, match=message):
        measured.read_timings(_write(tmp_path, TIMINGS.replace(old, new)))


def test_both_phases_are_needed(tmp_path: Path) -> None:
    rows = [row for row in TIMINGS.splitlines() if "decode" not in row]
    with pytest.raises(DataError, match="no decode timings of llama-2-70b on l4"):
        measured.read_timings(_write(tmp_path, "\n".join(rows)))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("mine,2", "mine,3", r"row 2 \(line 3\): layers 3, expected 2 next"),
        ("mine,2", "mine,1", "layers 1, expected 2 next"),
        ("1600", "1600.5", "row 2 .*kv_tokens_per_layer: expected a whole number"),
        ("1600", "0", "row 2 .*kv_tokens_per_layer: expected a whole number of at least 1"),
    ],
)
def test_limit_faults(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        measured.read_limits(_write(tmp_path, LIMITS.replace(old, new)))


def test_files_that_are_no_tables(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read as CSV"):
        measured.read_timings(tmp_path / "absent.csv")
    with pytest.raises(DataError, match="columns: none"):
        measured.read_timings(_write(tmp_path, ""))
    with pytest.raises(DataError, match="no rows"):
        measured.read_limits(_write(tmp_path, LIMITS.splitlines()[0]))
    path = tmp_path / "binary.csv"
    path.write_bytes(b"gpu,phase\n\xff\xfe")
    with pytest.raises(DataError, match="cannot be read as CSV"):
        measured.read_timings(path)
