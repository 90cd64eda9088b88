"""What faults did to a run: requests lost and failed, the dip of the output rate, and the time to recover."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from helixsim.domain.clients import ClientStats
from helixsim.domain.fault_figures import FaultEvent, FaultFigures
from helixsim.domain.faults import ABSENT, CUT, SLOW_LINKS, FailureCause, FaultKind
from helixsim.domain.figures import Figure
from helixsim.domain.result import FloatArray, RunResult
from helixsim.jsonio import significant
from helixsim.metrics.window import cumulative_in_window
from helixsim.units import NS_PER_S, number

SPAN_S = 30.0
"""The output rate after a failure is a mean over this time [s]."""

RECOVERED = 0.9
"""A system has recovered when its output rate is this share of that before the failure: rates vary by some per cent."""


FAILURES = (FaultKind.DOWN.value, CUT)
"""Events from which on nodes, or routes, are lost."""


class Dip(NamedTuple):
    """The fields of ``FaultFigures`` of these names."""

    before_tokens_per_s: Figure = None
    lowest_tokens_per_s: Figure = None
    recovery_s: Figure = None
    missing_tokens: Figure = None


def fault_figures(run: RunResult) -> FaultFigures | None:
    """Return the figures of faults; None: no node could fail."""
    stats = run.faults
    if stats is None:
        return None
    causes = list(stats.causes.values())
    return FaultFigures(
        tuple(FaultEvent(significant(at_ns / NS_PER_S), what, " ".join(nodes)) for at_ns, what, nodes in stats.events),
        hurt=int((stats.losses > 0).sum()),
        lost=int(stats.losses.sum()),
        retried=stats.retried,
        recomputed_tokens=stats.recomputed_tokens,
        failed_retries=causes.count(FailureCause.RETRIES),
        failed_timeout=causes.count(FailureCause.TIMEOUT),
        clients=stats.clients,
        copies=stats.copies,
        **_dip(run)._asdict(),
    )


def _dip(run: RunResult) -> Dip:
    """Return the dip behind the first failure in the window."""
    failures = failed_in_window(run)
    times_ns, tokens = cumulative_in_window(run.series.output_tokens, run)
    if not failures or len(times_ns) < 2:
        return Dip()
    return dip_after(failures[0] / NS_PER_S, times_ns / NS_PER_S, tokens.astype(np.float64))


def failed_in_window(run: RunResult) -> list[int]:
    """Return the times [ns] of the failures of nodes and links in the window."""
    inside = range(run.window_start_ns + 1, run.window_end_ns)
    events = () if run.faults is None else run.faults.events
    return [at_ns for at_ns, what, _ in events if what in FAILURES and at_ns in inside]


def dip_after(failure_s: float, times_s: FloatArray, tokens: FloatArray) -> Dip:
    """Return the dip of an output rate behind a failure.

    Parameters
    ----------
    times_s, tokens
        Samples of the tokens so far, shape [S]; the first is before the failure.
    """

    def so_far(at_s: FloatArray) -> FloatArray:
        return np.interp(at_s, times_s, tokens)

    first_s = float(times_s[0])
    before = float((so_far(np.array([failure_s])) - tokens[:1])[0]) / (failure_s - first_s)
    ends_s = times_s[times_s >= failure_s + SPAN_S]
    starts_s = np.maximum(ends_s - SPAN_S, first_s)
    if not len(ends_s) or before <= 0:
        return Dip(before)
    rates = (so_far(ends_s) - so_far(starts_s)) / (ends_s - starts_s)
    low = rates < RECOVERED * before
    if not low.any():
        return Dip(before, float(rates.min()), 0.0, 0.0)
    back = np.flatnonzero(~low & (np.arange(len(low)) > np.argmax(low)))
    until_s = float(ends_s[back[0]] if len(back) else times_s[-1])
    served = float(np.diff(so_far(np.array([failure_s, until_s])))[0])
    missing = max(before * (until_s - failure_s) - served, 0.0)
    return Dip(before, float(rates.min()), until_s - failure_s if len(back) else None, missing)


def fault_text(figures: FaultFigures | None) -> str:
    """Return a sentence on faults, without the name of the system; empty if there were none."""
    if figures is None:
        return ""
    if not figures.events:
        return f"{_clients_text(figures.clients)}." if figures.clients is not None else ""
    failures = sum(one.what in FAILURES for one in figures.events)
    slow = sum(one.what in {SLOW_LINKS, FaultKind.SLOW.value} for one in figures.events)
    joining = sum(len(one.nodes.split()) for one in figures.events if one.what == ABSENT)
    counts = ((failures, "failure"), (slow, "slowdown"), (joining, "joining node"))
    parts = [f"{count} {name}{'' if count == 1 else 's'}" for count, name in counts if count]
    if failures or figures.hurt:
        again = number(figures.recomputed_tokens) if figures.recomputed_tokens else "0"
        parts.append(f"{figures.hurt} requests lost their KV memory ({again} tokens sent again)")
    if figures.copies is not None:
        kept = number(figures.copies.restored_tokens)
        parts.append(f"{figures.copies.restored} of them went on from copies ({kept} tokens)")
    failed = figures.failed_retries + figures.failed_timeout
    parts.append(f"{failed} requests failed")
    before, lowest, recovery_s = figures.before_tokens_per_s, figures.lowest_tokens_per_s, figures.recovery_s
    if before is not None and lowest is not None:
        fell = f"output fell from {number(before)} to {number(lowest)} tokens/s"
        back = "and did not recover in the window" if recovery_s is None else f"and recovered in {number(recovery_s)} s"
        missing = f", {number(figures.missing_tokens)} tokens short" if figures.missing_tokens else ""
        parts.append("output did not fall" if recovery_s == 0 else f"{fell} {back}{missing}")
    if figures.clients is not None:
        parts.append(_clients_text(figures.clients))
    return f"{'; '.join(parts)}."


def _clients_text(clients: ClientStats) -> str:
    return (
        f"clients gave up {clients.gave_up} times, sent {clients.sent_again} requests again "
        f"and abandoned {clients.abandoned}"
    )
