"""Faults during a run as rows of tables."""

from __future__ import annotations

from collections.abc import Callable

from helixsim.domain.fault_figures import FaultFigures
from helixsim.domain.summary import Summary
from helixsim.metrics.faults import FAILURES
from helixsim.results.runset import RunSet
from helixsim.units import MISSING, number

_ROWS: tuple[tuple[str, Callable[[FaultFigures], str]], ...] = (
    ("failures", lambda one: str(sum(event.what in FAILURES for event in one.events))),
    ("requests that lost their KV memory", lambda one: str(one.hurt)),
    ("  sent again", lambda one: str(one.retried)),
    ("  tokens sent again", lambda one: number(one.recomputed_tokens)),
    ("failed, lost too often / timed out", lambda one: f"{one.failed_retries} / {one.failed_timeout}"),
    ("output tokens/s before the first failure", lambda one: number(one.before_tokens_per_s)),
    ("  lowest after it (mean of 30 s)", lambda one: number(one.lowest_tokens_per_s)),
    ("  back at 90 % after, s", lambda one: number(one.recovery_s)),
    ("  output tokens short by then", lambda one: number(one.missing_tokens)),
)

_CLIENTS: tuple[tuple[str, Callable[[FaultFigures], str]], ...] = tuple(
    (label, lambda one, key=key: MISSING if one.clients is None else str(getattr(one.clients, key)))  # type: ignore[misc]
    for label, key in (
        ("requests given up by clients", "gave_up"),
        ("  sent again by clients", "sent_again"),
        ("  abandoned", "abandoned"),
    )
)

_COPIES: tuple[tuple[str, Callable[[FaultFigures], str]], ...] = tuple(
    (label, lambda one, text=text: MISSING if one.copies is None else text(one.copies))  # type: ignore[misc]
    for label, text in (
        ("requests that went on from copies", lambda copies: str(copies.restored)),
        ("  tokens of the copies", lambda copies: number(copies.restored_tokens)),
        ("KV memory copied, GB", lambda copies: number(copies.sent_bytes / 1e9)),
        ("  host memory for it at a replica, at most, GB", lambda copies: number(copies.peak_bytes / 1e9)),
        ("  left out for want of it, times", lambda copies: str(copies.left_out)),
    )
)


def fault_rows(runs: RunSet) -> list[tuple[str, Callable[[Summary], str]]]:
    """Return the rows of systems whose nodes can fail; empty where none can."""
    if all(run.summary.faults is None for run in runs.values()):
        return []

    def cell(text: Callable[[FaultFigures], str]) -> Callable[[Summary], str]:
        return lambda summary: MISSING if summary.faults is None else text(summary.faults)

    copies = _COPIES if any(run.summary.faults and run.summary.faults.copies for run in runs.values()) else ()
    clients = _CLIENTS if any(run.summary.faults and run.summary.faults.clients for run in runs.values()) else ()
    return [(label, cell(text)) for label, text in (*_ROWS, *copies, *clients)]
