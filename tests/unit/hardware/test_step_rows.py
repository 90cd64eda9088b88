"""Tables of measured steps: what columns mean, and one clear error for each fault."""

from __future__ import annotations

from pathlib import Path

import pytest

from helixsim.domain.step_time import BatchShape
from helixsim.errors import DataError
from helixsim.hardware.step_rows import first_cells, is_table_of_steps, read_steps

HEADER = "phase,tokens,seqs,context,time_ms\n"


def _write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "steps.csv"
    path.write_text(text)
    return path


def test_columns_mean_what_the_documentation_says(tmp_path: Path) -> None:
    path = _write(tmp_path, HEADER + "prefill,1000,2,,30\nprefill,512,,4096,20\ndecode,,8,1500,12.5\ndecode,8,8,,10\n")
    prompts, chunk, decode, empty = read_steps(path)
    assert prompts.parts == ((1, BatchShape(1000, 2 * 500**2 / 2, 2, 0, 0, 2)),)
    assert chunk.parts == ((1, BatchShape(512, 512 * (4096 + 256), 1, 0, 0, 1)),)
    assert decode.parts == ((1, BatchShape(0, 0, 0, 8, 12_000, 8)),)
    assert empty.parts == ((1, BatchShape(0, 0, 0, 8, 0, 8)),)
    assert [row.seconds for row in (prompts, chunk, decode, empty)] == [0.03, 0.02, 0.0125, 0.01]
    assert [row.label for row in (prompts, decode)] == ["prefill", "decode"]


def test_seconds_are_seconds(tmp_path: Path) -> None:
    (row,) = read_steps(_write(tmp_path, "time_s,phase,context,seqs,tokens\n0.25,decode,100,3,\n"))
    assert row.seconds == 0.25
    assert row.predicted_s(lambda shape: shape.decode_seqs * 1e9) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEADER, "no rows"),
        (HEADER + "prompt,1,1,1,1\n", r"row 1 \(line 2\): unknown phase 'prompt'.*prefill"),
        (HEADER + "decode,,8,1500,12\ndecode,,8,1500,0\n", r"row 2 .*time_ms must be above zero"),
        (HEADER + "decode,,8,1500,\n", "time_ms: expected a number"),
        (HEADER + "decode,,,1500,3\n", "seqs: expected a number"),
        (HEADER + "decode,7,8,1500,3\n", "as many tokens as seqs, got 7 and 8"),
        (HEADER + "prefill,0,1,0,3\n", "tokens: expected a whole number of at least 1"),
        (HEADER + "prefill,9,1,-5,3\n", "context: expected a number of at least 0"),
        (HEADER + "decode,,2,nan,3\n", "context: expected a number of at least 0"),
        ("phase,tokens,seqs,time_ms\ndecode,,1,1\n", "no column 'context'"),
        ("phase,tokens,seqs,context,time\ndecode,,1,1,1\n", "exactly one of .*got a column 'time' without unit"),
        ("phase,tokens,seqs,context,time_s,time_ms\ndecode,,1,1,1,1\n", "exactly one of .*got both"),
        (HEADER + "decode,,8\n", "has not the 5 cells"),
    ],
)
def test_faults(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_steps(_write(tmp_path, text))


def test_the_header_tells_the_kind_of_table(tmp_path: Path) -> None:
    assert is_table_of_steps(first_cells(_write(tmp_path, HEADER)))
    assert is_table_of_steps(first_cells(_write(tmp_path, "phase, time\n")))
    assert not is_table_of_steps(first_cells(_write(tmp_path, "model,gpu,phase,batch_tokens,ms_per_layer\n")))
    with pytest.raises(DataError, match="cannot be read"):
        first_cells(tmp_path / "absent.csv")
