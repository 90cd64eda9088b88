"""BurstGPT traces (https://github.com/HPMLL/BurstGPT, data CC-BY 4.0).

Times are seconds since midnight of the first day. Later files insert ``Session ID`` and ``Elapsed time`` as second and
third column, so columns are found by name. Failed requests have zero response tokens.
"""

from __future__ import annotations

from collections.abc import Iterator

from helixsim.workload.readers.base import Reading, Row
from helixsim.workload.readers.files import by_name, csv_rows
from helixsim.workload.readers.values import time_ns, token_count
from helixsim.workload.spec import TIME_UNITS

COLUMNS = ("Timestamp", "Request tokens", "Response tokens")


def rows(reading: Reading) -> Iterator[Row]:
    """Yield the rows of a BurstGPT file with six or eight columns."""
    path, unit_ns = reading.path, TIME_UNITS[reading.options.unit or "s"]
    for line, (at, prompt, output, session) in csv_rows(reading, by_name(path, COLUMNS, ("Session ID",))):
        yield Row(
            line,
            time_ns(path, line, "Timestamp", at, unit_ns),
            token_count(path, line, "Request tokens", prompt),
            token_count(path, line, "Response tokens", output),
            session=session or None,
        )
