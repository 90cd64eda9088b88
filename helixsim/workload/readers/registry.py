"""The trace formats by name."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from helixsim.domain.request import Request
from helixsim.errors import ConfigError, DataError, unknown_name
from helixsim.workload.readers import azure, burstgpt, chat, mooncake, own
from helixsim.workload.readers.base import ReadOptions, Row, json_document, open_text, to_requests


@dataclass(frozen=True, slots=True)
class TraceFormat:
    """One format: what it is, the reader of its rows, and whether it records when requests arrived."""

    summary: str
    rows: Callable[[Path, ReadOptions], Iterator[Row]]
    has_times: bool = True


FORMATS: dict[str, TraceFormat] = {
    "azure": TraceFormat("Azure LLM inference trace, 2023 or 2024", azure.rows),
    "burstgpt": TraceFormat("BurstGPT, six or eight columns", burstgpt.rows),
    "mooncake": TraceFormat("Mooncake JSONL, without its prefix hashes", mooncake.rows),
    "sharegpt": TraceFormat("ShareGPT conversations, lengths only", chat.sharegpt, has_times=False),
    "vllm": TraceFormat("vllm bench serve --save-detailed result", chat.vllm),
    "csv": TraceFormat("CSV: arrival_s, prompt_tokens, output_tokens[, slo_class, session]", own.csv_trace),
    "jsonl": TraceFormat("JSONL with the same keys as csv", own.jsonl_trace),
}


_LENGTHS = (own.PROMPT, own.OUTPUT)
_CSV_MARKS = {"azure": (azure.COLUMNS[1:2],), "burstgpt": (burstgpt.COLUMNS[1:2],), "csv": _LENGTHS}
_JSON_MARKS = {"mooncake": (mooncake.KEYS[1:2],), "vllm": (chat.VLLM_KEYS[1:2],), "jsonl": _LENGTHS}
"""Columns or keys, each under any of its names, that give a format away."""


def names() -> tuple[str, ...]:
    """Return the names of the formats."""
    return tuple(FORMATS)


def get(name: str) -> TraceFormat:
    """Return a format by name; ``ConfigError`` if there is none of that name."""
    if name not in FORMATS:
        raise ConfigError(unknown_name("trace format", name, FORMATS))
    return FORMATS[name]


def read_trace(
    path: Path,
    trace_format: str | None = None,
    *,
    dropped: Counter[str] | None = None,
    sort: bool = False,
    chars_per_token: float | None = None,
) -> Iterator[Request]:
    """Yield the requests of a trace, sorted by arrival, the first at time 0, numbered in order.

    Parameters
    ----------
    trace_format
        A name of ``FORMATS``; None: found from the file.
    dropped
        Receives, by reason, how many rows are not requests (failed, zero tokens).
    sort
        Sort rows by time instead of refusing unsorted ones; holds the whole trace in memory.
    chars_per_token
        For text without token counts (ShareGPT).

    Raises
    ------
    ConfigError
        If the format is unknown.
    DataError
        With file, row (1-based line) and column of the first fault.
    """
    chosen = get(trace_format or detect_format(path))
    rows = chosen.rows(path, ReadOptions(chars_per_token))
    return to_requests(path, rows, Counter() if dropped is None else dropped, sort=sort)


def detect_format(path: Path) -> str:
    """Return the format of a trace by its header or first keys.

    Raises
    ------
    DataError
        If it looks like none of them.
    """
    with open_text(path) as handle:
        first = next((line for line in handle if not line.isspace()), "").strip()
    if not first:
        raise DataError(f"{path}: the file is empty")
    if first.startswith("["):
        return "sharegpt"
    if first.startswith("{"):
        keys, marks = _keys(path, first), _JSON_MARKS
    else:
        keys, marks = {name.strip() for name in next(csv.reader([first]))}, _CSV_MARKS
    for name, columns in marks.items():
        if all(any(alias in keys for alias in aliases) for aliases in columns):
            return name
    raise DataError(f"{path}: unknown trace format, it begins with {first[:80]!r}; name one of {', '.join(FORMATS)}")


def _keys(path: Path, first: str) -> set[str]:
    try:
        entry = json.loads(first)
    except json.JSONDecodeError:
        entry = json_document(path)
    return set(entry)
