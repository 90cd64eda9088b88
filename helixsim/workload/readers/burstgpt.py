"""BurstGPT traces (https://github.com/HPMLL/BurstGPT, data CC-BY 4.0).

Seconds since midnight of the first day. Later files insert ``Session ID`` and ``Elapsed time`` as second and third
column, so columns are found by name. Failed requests have zero response tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from helixsim.workload.readers.base import ReadOptions, Row, csv_rows, time_ns, token_count

COLUMNS = ("Timestamp", "Request tokens", "Response tokens")


def rows(path: Path, _options: ReadOptions) -> Iterator[Row]:
    """Yield the rows of a BurstGPT file with six or eight columns."""
    for line, (seconds, prompt, output, session) in csv_rows(path, [(name,) for name in COLUMNS], [("Session ID",)]):
        yield Row(
            line,
            time_ns(path, line, "Timestamp", seconds),
            token_count(path, line, "Request tokens", prompt),
            token_count(path, line, "Response tokens", output),
            session=session or None,
        )
