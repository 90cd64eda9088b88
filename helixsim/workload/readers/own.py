"""Traces of our own, CSV or JSONL: ``arrival_s``, ``prompt_tokens``, ``output_tokens`` [, ``slo_class``, ``session``].

The aliases are the column names of other simulators' trace files.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from helixsim.errors import did_you_mean
from helixsim.workload.readers.base import ReadOptions, Row, csv_rows, fault, json_lines, time_ns, token_count

ARRIVAL = ("arrival_s", "arrived_at", "arrival_time", "arrival_timestamp")
PROMPT = ("prompt_tokens", "num_prefill_tokens", "input_tokens", "prompt_size", "prompt_len")
OUTPUT = ("output_tokens", "num_decode_tokens", "token_size", "output_len")
REQUIRED = (ARRIVAL, PROMPT, OUTPUT)


def csv_trace(path: Path, _options: ReadOptions) -> Iterator[Row]:
    """Yield the rows of a CSV trace."""
    for line, (arrival, prompt, output, slo_class, session) in csv_rows(path, REQUIRED, [("slo_class",), ("session",)]):
        yield Row(
            line,
            time_ns(path, line, ARRIVAL[0], arrival),
            token_count(path, line, PROMPT[0], prompt),
            token_count(path, line, OUTPUT[0], output),
            slo_class or None,
            session or None,
        )


def jsonl_trace(path: Path, _options: ReadOptions) -> Iterator[Row]:
    """Yield the rows of a JSONL trace."""
    for line, entry in json_lines(path):
        arrival, prompt, output = (_value(path, line, entry, aliases) for aliases in REQUIRED)
        yield Row(
            line,
            time_ns(path, line, ARRIVAL[0], arrival),
            token_count(path, line, PROMPT[0], prompt),
            token_count(path, line, OUTPUT[0], output),
            _label(path, line, entry, "slo_class"),
            _label(path, line, entry, "session"),
        )


def _value(path: Path, line: int, entry: dict[str, Any], aliases: tuple[str, ...]) -> object:
    for alias in aliases:
        if alias in entry:
            return entry[alias]
    message = f"missing (also accepted: {', '.join(aliases[1:])}); the row has {', '.join(entry) or 'nothing'}"
    return fault(path, line, aliases[0], message + did_you_mean(aliases[0], entry))


def _label(path: Path, line: int, entry: dict[str, Any], key: str) -> str | None:
    label = entry.get(key)
    if label is not None and not isinstance(label, str):
        fault(path, line, key, f"got {label!r}, expected text")
    return label or None
