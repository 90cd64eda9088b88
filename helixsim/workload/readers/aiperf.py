"""Requests of NVIDIA's AIPerf (``profile_export.jsonl``): one JSON object a line, without those of the warm-up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from helixsim.workload.readers.base import Reading, Row
from helixsim.workload.readers.files import json_lines, nested
from helixsim.workload.readers.values import time_ns, token_count

MARK = "metadata.request_start_ns"

_LENGTHS = ("input_sequence_length", "output_sequence_length")


def rows(reading: Reading) -> Iterator[Row]:
    """Yield the requests in order of start; they are written when they end."""
    path = reading.path
    found = []
    for line, entry in json_lines(reading):
        if is_warm_up(entry):
            reading.log.dropped["warm-up"] += 1
            continue
        failed = has_failed(entry)
        prompt, output = (_length(reading, line, entry, name, is_needed=not failed) for name in _LENGTHS)
        start_ns = time_ns(path, line, MARK, nested(entry, MARK), 1)
        found.append(Row(line, start_ns, prompt, output, failure="request failed" if failed else None))
    yield from sorted(found, key=lambda row: row.time_ns)


def is_warm_up(entry: dict[str, Any]) -> bool:
    """Return whether a request is one of the warm-up."""
    return (nested(entry, "metadata.benchmark_phase") or nested(entry, "metadata.phase_kind")) == "warmup"


def has_failed(entry: dict[str, Any]) -> bool:
    """Return whether a request failed or was cancelled."""
    return bool(entry.get("error") or nested(entry, "metadata.was_cancelled"))


def _length(reading: Reading, line: int, entry: dict[str, Any], name: str, *, is_needed: bool) -> int:
    """Return a number of tokens; 0 if there is none and it is not needed."""
    column = f"metrics.{name}.value"
    found = nested(entry, column)
    return 0 if found is None and not is_needed else token_count(reading.path, line, column, found)
