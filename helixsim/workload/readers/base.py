"""Common parts of trace readers: rows, the log of a reader, and conversion to requests in order of time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from helixsim.domain.request import Prefix, Request
from helixsim.errors import DataError
from helixsim.units import NS_PER_S, format_seconds
from helixsim.workload.readers.values import MAX_SPAN_NS, fault
from helixsim.workload.spec import ReadOptions

Times = Literal["required", "optional", "ignored"]
"""Treatment of a trace without arrival times: an error, a note, or none."""

SUSPICIOUS_RPS = 100.0
"""Mean rate [1/s] above which an assumed unit is doubtful; the largest published trace has 45 /s."""


class Row(NamedTuple):
    """One row as written: line of the file (1-based), time since any epoch [ns], tokens, labels, reason of failure.

    ``prefix``: identity of the tokens, None where the file does not tell.
    """

    line: int
    time_ns: int
    prompt_tokens: int
    output_tokens: int
    slo_class: str | None = None
    session: str | None = None
    failure: str | None = None
    prefix: Prefix | None = None
    priority: int = 0


@dataclass(slots=True)
class ReadLog:
    """Log of a reader, complete when all requests have been read.

    Parameters
    ----------
    dropped
        Rows that are not requests, by reason.
    notes
        Sentences on the interpretation of the file.
    warnings
        Sentences on doubtful interpretations.
    has_times
        Whether the file has arrival times.
    assumed_unit
        Assumed unit of numeric times; None if the file or the options state it.
    """

    dropped: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    has_times: bool = True
    assumed_unit: str | None = None

    def sentences(self) -> tuple[str, ...]:
        """Return warnings and notes."""
        return (*self.warnings, *self.notes)


@dataclass(frozen=True, slots=True)
class Reading:
    """One reading of one file."""

    path: Path
    options: ReadOptions
    times: Times
    log: ReadLog

    def drop(self) -> None:
        """Count a row that is excluded by ``options.where``."""
        condition = " and ".join(f"{name}={value}" for name, value in self.options.where)
        self.log.dropped[f"not {condition}"] += 1

    def note(self, sentence: str) -> None:
        """Add a note, once."""
        if sentence not in self.log.notes:
            self.log.notes.append(sentence)

    def warn(self, sentence: str) -> None:
        """Add a warning, once."""
        if sentence not in self.log.warnings:
            self.log.warnings.append(sentence)

    def lacks_times(self, reason: str) -> None:
        """Record that there are no arrival times; raises if they are required."""
        self.log.has_times = False
        advice = "use its lengths: lengths: {distribution: trace, path: ...} with an arrival process"
        if self.times == "required":
            raise DataError(f"{self.path}: {reason}; {advice}")
        if self.times == "optional":
            self.note(f"{reason}; all requests are at time 0; {advice}")


def to_requests(reading: Reading, rows: Iterable[Row], *, sort: bool) -> Iterator[Request]:
    """Yield the requests, from time 0 on, numbered in order.

    Rows that failed or have no prompt or output tokens (BurstGPT writes zeros for failed requests) are counted in
    ``reading.log.dropped``. With an assumed unit, a mean rate above ``SUSPICIOUS_RPS`` gives a warning.

    Parameters
    ----------
    sort
        Sort by time first, which reads the whole file; otherwise decreasing times are a fault.
    """
    path, dropped = reading.path, reading.log.dropped
    ordered = sorted(rows, key=lambda row: row.time_ns) if sort else rows
    origin_ns: int | None = None
    latest_ns = -MAX_SPAN_NS * 1000
    number = 0
    sessions = _Sessions() if reading.options.extend_sessions else None
    for line, at_ns, prompt_tokens, output_tokens, slo_class, session, failure, stated, priority in ordered:
        if at_ns < latest_ns:
            back = format_seconds((latest_ns - at_ns) / NS_PER_S)
            fault(
                path, line, "", f"time decreases by {back}; sort the trace first: helixsim trace convert --sort IN OUT"
            )
        latest_ns = at_ns
        if failure or not prompt_tokens or not output_tokens:
            dropped[failure or ("no output tokens" if prompt_tokens else "no prompt tokens")] += 1
            continue
        if origin_ns is None:
            origin_ns = at_ns
        if at_ns - origin_ns > MAX_SPAN_NS:
            years = (at_ns - origin_ns) / NS_PER_S / (365.25 * 86_400)
            limit = MAX_SPAN_NS / NS_PER_S / (365.25 * 86_400)
            fault(path, line, "", f"{years:.3g} years after the first request, allowed: {limit:.0f}; check the unit")
        prefix = stated if sessions is None else sessions.prefix(session, prompt_tokens, output_tokens)
        yield Request(number, at_ns - origin_ns, prompt_tokens, output_tokens, slo_class, session, prefix, priority)
        number += 1
    if origin_ns is None:
        reasons = "".join(f"; {count} rows dropped: {reason}" for reason, count in dropped.items())
        raise DataError(f"{path}: no request in the file{reasons}")
    if sessions is not None:
        reading.note(sessions.sentence())
    unit = reading.log.assumed_unit
    if unit is not None and latest_ns > origin_ns:
        rate_rps = (number - 1) * NS_PER_S / (latest_ns - origin_ns)
        if rate_rps >= SUSPICIOUS_RPS:
            reading.warn(
                f"{rate_rps:.3g} requests/s with times in {unit}: if the unit is wrong, give it (--unit s; "
                "workload.trace.unit)"
            )


class _Sessions:
    """Sessions whose turns extend each other: identifier and tokens of each so far.

    A turn with a shorter prompt than the tokens before it cannot extend them, and begins a new identifier.
    """

    def __init__(self) -> None:
        self.known: dict[str, tuple[int, int]] = {}
        self.identifiers = 0
        self.turns = 0
        self.extending = 0

    def prefix(self, session: str | None, prompt_tokens: int, output_tokens: int) -> Prefix | None:
        """Return the identity of the tokens of the next turn of a session; None without one."""
        if session is None:
            return None
        self.turns += 1
        identifier, before = self.known.get(session, (-1, 0))
        if identifier < 0 or prompt_tokens <= before:
            identifier = self.identifiers
            self.identifiers += 1
        else:
            self.extending += 1
        tokens = prompt_tokens + output_tokens
        self.known[session] = identifier, tokens
        return Prefix((identifier,), (tokens,), tokens)

    def sentence(self) -> str:
        """Return how many turns extend another."""
        return (
            f"{self.turns} requests in {len(self.known)} sessions, of which {self.extending} are read as the "
            "continuation of the one before; the others are first in their session, or their prompt is too short for it"
        )
