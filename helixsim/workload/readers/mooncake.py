"""Mooncake traces (https://github.com/kvcache-ai/Mooncake, FAST'25): JSONL with times in milliseconds.

``hash_ids`` describe shared prefixes and are not used. Other programs write the same keys with seconds: fractions and
implausible rates give a warning, and ``unit`` states the unit.
"""

from __future__ import annotations

from collections.abc import Iterator

from helixsim.workload.readers.base import Reading, Row
from helixsim.workload.readers.files import json_lines, listed
from helixsim.workload.readers.values import fault, time_ns, token_count
from helixsim.workload.spec import TIME_UNITS

KEYS = ("timestamp", "input_length", "output_length")


def rows(reading: Reading) -> Iterator[Row]:
    """Yield the rows of a Mooncake trace."""
    if reading.options.unit is None:
        reading.log.assumed_unit = "milliseconds"
    path, unit_ns = reading.path, TIME_UNITS[reading.options.unit or "ms"]
    for line, entry in json_lines(reading):
        for key in KEYS:
            if key not in entry:
                fault(path, line, key, f"missing; {listed(list(entry))}")
        at = entry["timestamp"]
        if reading.options.unit is None and isinstance(at, float) and not at.is_integer():
            reading.warn(
                "fractions of milliseconds, which Mooncake does not write: if the times are seconds, give the unit "
                "(--unit s; workload.trace.unit)"
            )
        yield Row(
            line,
            time_ns(path, line, "timestamp", at, unit_ns),
            token_count(path, line, "input_length", entry["input_length"]),
            token_count(path, line, "output_length", entry["output_length"]),
        )
