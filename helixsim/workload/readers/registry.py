"""The trace formats by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from helixsim import jsonio
from helixsim.domain.request import Request
from helixsim.errors import ConfigError, DataError, unknown_name
from helixsim.jsonio import shown
from helixsim.workload.readers import aiperf, azure, burstgpt, chat, log, mooncake, otel, servegen
from helixsim.workload.readers.base import Reading, ReadLog, Row, Times, to_requests
from helixsim.workload.readers.files import csv_header, flat_names, json_documents, open_text
from helixsim.workload.readers.values import MAX_TOKENS
from helixsim.workload.spec import AS_WRITTEN, COLUMN_PARTS, TIME_UNITS, ReadOptions


@dataclass(frozen=True, slots=True)
class TraceFormat:
    """A trace format.

    Parameters
    ----------
    rows
        The reader.
    takes
        Supported fields of ``ReadOptions``.
    has_times
        Whether the format can have arrival times.
    """

    summary: str
    rows: Callable[[Reading], Iterator[Row]]
    takes: tuple[str, ...] = ()
    has_times: bool = True


_LOG = ("unit", "columns", "where", "extend_sessions")

FORMATS: dict[str, TraceFormat] = {
    "azure": TraceFormat("Azure LLM inference trace, 2023, 2024 or 2025 (multimodal)", azure.rows, ("where",)),
    "burstgpt": TraceFormat("BurstGPT, six or eight columns", burstgpt.rows, ("unit", "where", "extend_sessions")),
    "mooncake": TraceFormat("Mooncake JSONL", mooncake.rows, ("unit", "where", "block_size")),
    "sharegpt": TraceFormat(
        "ShareGPT conversations, lengths only", chat.sharegpt, ("chars_per_token",), has_times=False
    ),
    "vllm": TraceFormat("vllm bench serve --save-detailed result", chat.vllm, ("result",)),
    "aiperf": TraceFormat("AIPerf profile_export.jsonl", aiperf.rows, ("where",)),
    "otel": TraceFormat("OpenTelemetry spans of generative AI, OTLP/JSON", otel.rows, ("where", "extend_sessions")),
    "servegen": TraceFormat("ServeGen batch jobs, lengths only", servegen.rows, ("where",), has_times=False),
    "csv": TraceFormat(
        "CSV: arrival_s, prompt_tokens, output_tokens[, slo_class, priority, session, prefix], or a gateway log",
        log.csv_trace,
        _LOG,
    ),
    "jsonl": TraceFormat("JSONL with the same keys as csv", log.jsonl_trace, _LOG),
}


_HEAD = 2**20
"""Characters at the beginning of a file used to detect its format."""

_CSV_MARKS = {"azure": azure.COLUMNS[1:2], "burstgpt": burstgpt.COLUMNS[1:2]}
_JSON_MARKS = {
    "otel": (otel.MARK,),
    "aiperf": (aiperf.MARK,),
    "mooncake": mooncake.KEYS[:2],
    "servegen": servegen.KEYS,
    "vllm": chat.VLLM_LENGTHS[:1],
}
"""Columns or keys that identify a format."""

_VLLM_SUMMARY = ("completed", "request_throughput")
"""Keys of a ``bench serve`` result, with or without arrays."""


def names() -> tuple[str, ...]:
    """Return the names of the formats."""
    return tuple(FORMATS)


def get(name: str) -> TraceFormat:
    """Return a format by name; ``ConfigError`` for an unknown name."""
    if name not in FORMATS:
        raise ConfigError(unknown_name("trace format", name, FORMATS))
    return FORMATS[name]


def read_trace(
    path: Path,
    trace_format: str | None = None,
    options: ReadOptions = AS_WRITTEN,
    *,
    times: Times = "optional",
    sort: bool = False,
    log: ReadLog | None = None,
) -> Iterator[Request]:
    """Yield the requests of a trace, sorted by arrival, the first at time 0, numbered in order.

    Parameters
    ----------
    trace_format
        A name of ``FORMATS``; None: detected.
    times
        Treatment of a file without arrival times, see ``readers.base.Times``.
    sort
        Sort rows by time instead of refusing unsorted ones; keeps the whole trace in memory.
    log
        Receives dropped rows, notes and warnings.

    Raises
    ------
    ConfigError
        If the format is unknown or does not support an option.
    DataError
        With file, row (1-based line) and column of the first fault.
    """
    name = trace_format or detect_format(path, options)
    chosen = get(name)
    check_options(name, options, path)
    reading = Reading(path, options, times, ReadLog() if log is None else log)
    return to_requests(reading, chosen.rows(reading), sort=sort)


def check_options(name: str, options: ReadOptions, path: Path) -> None:
    """Raise ``ConfigError`` if a format does not support an option, or a value is invalid."""
    takes = get(name).takes
    for key in ReadOptions.__dataclass_fields__:
        if getattr(options, key) not in (None, ()) and key not in takes:
            others = ", ".join(other for other, known in FORMATS.items() if key in known.takes)
            raise ConfigError(f"{path}: {key}: not supported by the trace format {name}, only by {others}")
    if options.unit is not None and options.unit not in TIME_UNITS:
        raise ConfigError(f"{path}: " + unknown_name("unit of time", options.unit, TIME_UNITS))
    for part, _ in options.columns:
        if part not in COLUMN_PARTS:
            raise ConfigError(f"{path}: " + unknown_name("part of a request", part, COLUMN_PARTS))
    if options.chars_per_token is not None and not 0.01 <= options.chars_per_token <= 1000:
        raise ConfigError(f"{path}: chars_per_token: got {options.chars_per_token:g}, expected 0.01 .. 1000")
    if options.block_size is not None and not 1 <= options.block_size <= MAX_TOKENS:
        raise ConfigError(f"{path}: block_size: got {options.block_size}, expected 1 .. {MAX_TOKENS}")


def detect_format(path: Path, options: ReadOptions = AS_WRITTEN) -> str:
    """Return the format of a trace by its header or first keys; with ``options.columns`` it is ``csv`` or ``jsonl``.

    Raises
    ------
    DataError
        If no format is detected.
    """
    with open_text(path) as handle:
        head = handle.read(_HEAD).lstrip()
    if not head:
        raise DataError(f"{path}: the file is empty")
    if head.startswith("["):
        return "sharegpt"
    is_json = head.startswith("{")
    if options.columns:
        return "jsonl" if is_json else "csv"
    found = _keys(path, head) if is_json else csv_header(path, head)
    for name, columns in (_JSON_MARKS if is_json else _CSV_MARKS).items():
        if all(column in found for column in columns):
            return name
    if log.is_log(found):
        return "jsonl" if is_json else "csv"
    if is_json and all(key in found for key in _VLLM_SUMMARY):
        return "vllm"
    separator = "" if is_json or len(found) > 1 else "; only commas separate columns"
    raise DataError(
        f"{path}: unknown trace format, row 1 is {shown(head.splitlines()[0])}{separator}; {log.needed(found)}; "
        f"or give a format: {', '.join(FORMATS)}"
    )


def _keys(path: Path, head: str) -> list[str]:
    """Return the dotted keys of the first object of a JSON or JSONL file."""
    line = head.splitlines()[0]
    try:
        entry = jsonio.loads(line, str(path))
    except DataError:  # not JSON, or an object over several lines
        entry = json_documents(path)[0]
    return flat_names(entry)
