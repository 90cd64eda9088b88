"""CSV and JSONL traces: helixsim's format, those of other simulators, and gateway logs.

Required parts are ``arrival``, ``prompt`` and ``output``; ``slo_class``, ``priority``, ``session`` and ``prefix``
are optional. A prefix is ``ID:END`` for each of its segments, separated by spaces (``domain.request.Prefix``). Columns
are those of ``ReadOptions.columns``, or known by the names in ``NAMES``. Names are tried by tier, those of helixsim's
format first; two names of a tier are ambiguous, which is a fault.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from helixsim.domain.request import Prefix
from helixsim.errors import DataError, did_you_mean
from helixsim.jsonio import shown
from helixsim.workload.readers.base import Reading, Row
from helixsim.workload.readers.files import csv_rows, flat_names, json_lines, listed, nested, position
from helixsim.workload.readers.values import Stamps, fault, time_ns, token_count
from helixsim.workload.spec import TIME_UNITS

NAMES: dict[str, tuple[tuple[str, ...], ...]] = {
    "arrival": (
        ("arrival_s",),
        ("arrived_at", "arrival", "arrival_time", "arrival_timestamp", "arrival_ms", "timestamp_s", "timestamp_ms"),
        ("timestamp", "time", "ts", "created_at", "created", "start_time", "startTime", "request_time", "datetime"),
    ),
    "prompt": (
        ("prompt_tokens",),
        ("input_tokens", "num_prefill_tokens", "prompt_size", "prompt_len", "input_length", "num_prompt_tokens"),
        ("usage.prompt_tokens", "usage.input_tokens"),
        ("input",),
    ),
    "output": (
        ("output_tokens",),
        ("completion_tokens", "num_decode_tokens", "token_size", "output_len", "output_length", "generated_tokens"),
        ("usage.completion_tokens", "usage.output_tokens"),
        ("output",),
    ),
    "slo_class": (("slo_class",),),
    "priority": (("priority",),),
    "session": (("session",),),
    "prefix": (("prefix_segments",),),
}
"""Names of each part, in tiers."""

NEEDED = ("arrival", "prompt", "output")

_WHOLE = re.compile(r"\d{1,18}", re.ASCII)

_SIGNED = re.compile(r"[+-]?\d{1,9}", re.ASCII)

_SECONDS = ("arrival_s", "arrived_at", "arrival_time", "arrival_timestamp")
"""Names of times in seconds; those without a unit are used by simulators that count seconds."""

_EPOCH_UNITS = ((1e17, "ns"), (1e14, "us"), (1e11, "ms"), (1e9, "s"))
"""Least value of a time since 1970 in each unit (years 1973 to 5138)."""

_UNIT_WORDS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}


class _Times:
    """Reader of a column of arrival times; the first value determines their kind (calendar or number) and unit."""

    def __init__(self, reading: Reading, column: str) -> None:
        self._reading = reading
        self._column = column
        self._stamps: Stamps | None = None
        self._unit_ns = 0

    def ns(self, line: int, got: object) -> int:
        """Return the time since the epoch of the column [ns]."""
        if not self._unit_ns:
            self._begin(line, got)
        if self._stamps is None:
            return time_ns(self._reading.path, line, self._column, got, self._unit_ns)
        if not isinstance(got, str):
            fault(self._reading.path, line, self._column, f"got {shown(got)}, the previous rows have calendar times")
        ns = self._stamps.ns(line, got)
        if self._stamps.is_zoned is False:
            self._reading.note(f"column {shown(self._column)}: calendar times without an offset are read as UTC")
        return ns

    def _begin(self, line: int, got: object) -> None:
        options, path = self._reading.options, self._reading.path
        is_stamp = isinstance(got, str) and got[4:5] == "-" and got[7:8] == "-"
        if is_stamp and options.unit is None:
            self._stamps, self._unit_ns = Stamps(path, self._column), 1
            return
        unit = options.unit or self._stated_unit()
        if unit is None:
            number_ns = time_ns(path, line, self._column, got, 1)
            unit = next((name for least, name in _EPOCH_UNITS if number_ns >= least), None)
            reason = "since 1970, by magnitude" if unit else "by default"
            unit = unit or "s"
            self._reading.log.assumed_unit = _UNIT_WORDS[unit]
            flag = "--unit gives another (workload.trace.unit)"
            self._reading.note(
                f"column {shown(self._column)}: numbers are read as {_UNIT_WORDS[unit]} {reason}; {flag}"
            )
        self._unit_ns = TIME_UNITS[unit]

    def _stated_unit(self) -> str | None:
        """Return the unit in the name of the column, None if there is none."""
        name = self._column.rpartition(".")[2]
        if name in _SECONDS:
            return "s"
        return next((unit for unit in TIME_UNITS if name.endswith(f"_{unit}")), None)


def csv_trace(reading: Reading) -> Iterator[Row]:
    """Yield the rows of a CSV trace."""
    path = reading.path
    columns: dict[str, str | None] = {}

    def pick(names: list[str]) -> list[int | None]:
        columns.update(_columns(reading, 1, names))
        unused = [name for name in names if name not in columns.values() and name not in dict(reading.options.where)]
        if unused:
            reading.note(f"unused columns: {listed(unused).removeprefix('it has ')}")
        return [None if name is None else position(path, names, name) for name in columns.values()]

    times: _Times | None = None
    for line, (arrival, prompt, output, slo_class, priority, session, prefix) in csv_rows(reading, pick):
        if times is None:
            times = _Times(reading, columns["arrival"] or "")
        yield Row(
            line,
            times.ns(line, arrival) if columns["arrival"] else 0,
            token_count(path, line, columns["prompt"] or "", prompt),
            token_count(path, line, columns["output"] or "", output),
            slo_class or None,
            session or None,
            prefix=_prefix(reading, line, columns["prefix"] or "", prefix) if prefix else None,
            priority=_priority(reading, line, columns["priority"] or "", priority),
        )


def jsonl_trace(reading: Reading) -> Iterator[Row]:
    """Yield the rows of a JSONL trace; the first determines the keys."""
    path = reading.path
    columns: dict[str, str | None] = {}
    times: _Times | None = None
    for line, entry in json_lines(reading):
        if times is None:
            columns = _columns(reading, line, flat_names(entry))
            times = _Times(reading, columns["arrival"] or "")
        prefix_column, priority_column = columns["prefix"] or "prefix_segments", columns["priority"] or "priority"
        segments = _label(reading, line, entry, prefix_column)
        yield Row(
            line,
            times.ns(line, _value(reading, line, entry, columns["arrival"])) if columns["arrival"] else 0,
            token_count(path, line, columns["prompt"] or "", _value(reading, line, entry, columns["prompt"])),
            token_count(path, line, columns["output"] or "", _value(reading, line, entry, columns["output"])),
            _label(reading, line, entry, columns["slo_class"] or "slo_class"),
            _label(reading, line, entry, columns["session"] or "session"),
            prefix=_prefix(reading, line, prefix_column, segments) if segments else None,
            priority=_priority(reading, line, priority_column, nested(entry, priority_column)),
        )


def is_log(names: list[str]) -> bool:
    """Whether these names include known columns of prompt and output lengths."""
    return all(any(name in names for tier in NAMES[part] for name in tier) for part in ("prompt", "output"))


def needed(names: list[str]) -> str:
    """Return a message with the names of a header, the required parts, and the option that assigns columns."""
    parts = "; ".join(f"{part} ({', '.join(name for tier in NAMES[part] for name in tier)})" for part in NEEDED)
    return f"{listed(names)}; required: {parts}; {_ADVICE}"


_ADVICE = "assign columns with --column prompt=NAME (workload.trace.columns: {prompt: NAME})"


def _columns(reading: Reading, line: int, names: list[str]) -> dict[str, str | None]:
    """Return the column of each part."""
    stated = dict(reading.options.columns)
    columns: dict[str, str | None] = {}
    for part, tiers in NAMES.items():
        column = stated.get(part)
        if column is None:
            column = _known_column(reading, line, part, tiers, names)
        elif column not in names:
            hint = did_you_mean(column, names)
            raise DataError(f"{reading.path}: row {line}: no column {shown(column)}; {listed(names)}{hint}")
        if column is None and part == "arrival":
            close = next((hint for tier in tiers for name in tier if (hint := did_you_mean(name, names))), "")
            reading.lacks_times(f"row {line}: no column for the arrival; {needed(names)}{close}")
        elif column is None and part in NEEDED:
            close = next((hint for tier in tiers for name in tier if (hint := did_you_mean(name, names))), "")
            raise DataError(f"{reading.path}: row {line}: no column for the {part}; {needed(names)}{close}")
        columns[part] = column
    if reading.times == "ignored":
        columns["arrival"] = None
    return columns


def _known_column(
    reading: Reading, line: int, part: str, tiers: tuple[tuple[str, ...], ...], names: list[str]
) -> str | None:
    for tier in tiers:
        found = [name for name in tier if name in names]
        if len(found) > 1:
            both = " and ".join(shown(name) for name in found)
            message = (
                f"{both} could both be the {part}; select one with --column {part}={found[0]} (workload.trace.columns)"
            )
            fault(reading.path, line, "", message)
        if found:
            return found[0]
    return None


def _value(reading: Reading, line: int, entry: dict[str, Any], name: str | None) -> object:
    value = None if name is None else nested(entry, name)
    if value is None:
        rows = "exclude rows without it with --where COLUMN=VALUE (workload.trace.where)"
        fault(reading.path, line, name or "", f"missing; {listed(flat_names(entry))}; {rows}")
    return value


def _label(reading: Reading, line: int, entry: dict[str, Any], name: str) -> str | None:
    label = nested(entry, name)
    if label is not None and not isinstance(label, str):
        fault(reading.path, line, name, f"got {shown(label)}, expected text")
    return label or None


def _priority(reading: Reading, line: int, column: str, got: object) -> int:
    """Return the priority of a request, 0 if none is stated."""
    if got is None or got == "":
        return 0
    text = str(got) if isinstance(got, str | int) and not isinstance(got, bool) else ""
    if not _SIGNED.fullmatch(text):
        fault(reading.path, line, column, f"got {shown(got)}, expected a whole number (lowest first)")
    return int(text)


def _prefix(reading: Reading, line: int, column: str, text: str) -> Prefix:
    """Return the identity of the tokens of a request."""
    pairs = [pair.partition(":") for pair in text.split()]
    if not pairs or not all(colon and _WHOLE.fullmatch(one) and _WHOLE.fullmatch(end) for one, colon, end in pairs):
        fault(reading.path, line, column, f"got {shown(text)}, expected ID:END for each segment, separated by spaces")
    ids, ends = tuple(int(one) for one, _, _ in pairs), tuple(int(end) for _, _, end in pairs)
    if sorted(ends) != list(ends) or len(set(ids)) < len(ids):
        fault(reading.path, line, column, f"got {shown(text)}, expected ascending ends and different identifiers")
    return Prefix(ids, ends, ends[-1])
