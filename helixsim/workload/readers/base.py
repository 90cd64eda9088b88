"""What all trace formats share: a row, what reading leaves behind, order in time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from helixsim.domain.request import Request
from helixsim.errors import DataError
from helixsim.units import NS_PER_S, format_seconds
from helixsim.workload.readers.values import MAX_SPAN_NS, fault
from helixsim.workload.spec import ReadOptions

Times = Literal["required", "optional", "ignored"]
"""Whether a trace without arrival times is refused, read with a note, or read as if it needed none."""

SUSPICIOUS_RPS = 100.0
"""Mean rate [1/s] from which on a unit that was not stated is doubted; the largest published trace has 45 /s."""


class Row(NamedTuple):
    """One row as written: line of the file (1-based), time since any epoch [ns], tokens, and why it does not count."""

    line: int
    time_ns: int
    prompt_tokens: int
    output_tokens: int
    slo_class: str | None = None
    session: str | None = None
    failure: str | None = None


@dataclass(slots=True)
class ReadLog:
    """What reading a trace found out besides its requests; final once they have all been read.

    Parameters
    ----------
    dropped
        Rows that are not requests, by reason.
    notes
        Sentences on how the file was understood.
    warnings
        Sentences on what may have been understood wrongly.
    has_times
        Whether the file records when requests arrived.
    assumed_unit
        The unit that numeric times were taken in, if neither the file nor the reader's user states it.
    """

    dropped: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    has_times: bool = True
    assumed_unit: str | None = None

    def said(self) -> tuple[str, ...]:
        """Return notes and warnings."""
        return (*self.warnings, *self.notes)


@dataclass(frozen=True, slots=True)
class Reading:
    """One reading of one file."""

    path: Path
    options: ReadOptions
    times: Times
    log: ReadLog

    def leave_out(self) -> None:
        """Count a row that ``options.where`` does not admit."""
        said = " and ".join(f"{name}={value}" for name, value in self.options.where)
        self.log.dropped[f"not {said}"] += 1

    def note(self, sentence: str) -> None:
        """Say once how the file was understood."""
        if sentence not in self.log.notes:
            self.log.notes.append(sentence)

    def warn(self, sentence: str) -> None:
        """Say once what may have been understood wrongly."""
        if sentence not in self.log.warnings:
            self.log.warnings.append(sentence)

    def lacks_times(self, why: str) -> None:
        """Go on without arrival times, or raise if they are required."""
        self.log.has_times = False
        advice = "its lengths can be used: lengths: {distribution: trace, path: ...} with an arrival process"
        if self.times == "required":
            raise DataError(f"{self.path}: {why}; {advice}")
        if self.times == "optional":
            self.note(f"{why}; all requests are at time 0; {advice}")


def to_requests(reading: Reading, rows: Iterable[Row], *, sort: bool) -> Iterator[Request]:
    """Yield the rows that count as requests, from time 0 on, numbered in order.

    Rows that failed or have no prompt or output tokens (BurstGPT writes zeros for failed requests) are counted in
    ``reading.log.dropped``. A mean rate from ``SUSPICIOUS_RPS`` on puts an assumed unit in doubt.

    Parameters
    ----------
    sort
        Sort by time first (reads the whole file); otherwise a step back in time is a fault.
    """
    path, dropped = reading.path, reading.log.dropped
    ordered = sorted(rows, key=lambda row: row.time_ns) if sort else rows
    origin_ns: int | None = None
    latest_ns = -MAX_SPAN_NS * 1000
    number = 0
    for line, at_ns, prompt_tokens, output_tokens, slo_class, session, failure in ordered:
        if at_ns < latest_ns:
            back = format_seconds((latest_ns - at_ns) / NS_PER_S)
            fault(path, line, "", f"time goes back by {back}; sort it first: helixsim trace convert --sort IN OUT")
        latest_ns = at_ns
        if failure or not prompt_tokens or not output_tokens:
            dropped[failure or ("no output tokens" if prompt_tokens else "no prompt tokens")] += 1
            continue
        if origin_ns is None:
            origin_ns = at_ns
        if at_ns - origin_ns > MAX_SPAN_NS:
            years = (at_ns - origin_ns) / NS_PER_S / (365.25 * 86_400)
            limit = MAX_SPAN_NS / NS_PER_S / (365.25 * 86_400)
            fault(path, line, "", f"{years:.3g} years after the first request, allowed are {limit:.0f}: a wrong unit?")
        yield Request(number, at_ns - origin_ns, prompt_tokens, output_tokens, slo_class, session)
        number += 1
    if origin_ns is None:
        left_out = "".join(f"; {count} rows left out: {reason}" for reason, count in dropped.items())
        raise DataError(f"{path}: no request in the file{left_out}")
    unit = reading.log.assumed_unit
    if unit is not None and latest_ns > origin_ns:
        rate_rps = (number - 1) * NS_PER_S / (latest_ns - origin_ns)
        if rate_rps >= SUSPICIOUS_RPS:
            reading.warn(
                f"{rate_rps:.3g} requests/s with times read as {unit}: if they are in another unit, state it "
                "(--unit s; workload.trace.unit)"
            )
