"""The verdict as rows of tables, shared by the terminal and the HTML report."""

from __future__ import annotations

import math
from dataclasses import dataclass

from helixsim.domain.figures import Latency
from helixsim.domain.summary import Summary
from helixsim.metrics.verdict import Objective, SystemVerdict, Verdict
from helixsim.metrics.verdict_text import limit_of, reached_text, result_of
from helixsim.results.runset import RunSet
from helixsim.units import MISSING, number, percent

MET, MISSED, DOUBT = "met", "missed", "doubt"
"""Classes of results, for colours; doubt: the model error leaves the result open."""

LATE = "∞"
"""A percentile beyond the window."""


SYMBOLS = {MET: "✓", MISSED: "✗", DOUBT: "?"}


def late_note(runs: RunSet) -> str:
    """Return what ``LATE`` means in the results of some systems."""
    has_failed = any((run.summary.throughput.failed or 0) and run.summary.faults for run in runs.values())
    failed = "failed or " if has_failed else ""
    return f"{LATE}: more than 1 % of the requests {failed}had not got so far when the window ended"


@dataclass(frozen=True, slots=True)
class ObjectiveRow:
    """An objective of a system as text; ``mark``: ``MET``, ``MISSED`` or ``DOUBT``."""

    system: str
    objective: str
    reached: str
    allowed: str
    result: str
    mark: str
    draws: str
    load: str

    @property
    def symbol(self) -> str:
        """The mark as one character."""
        return SYMBOLS[self.mark]


def objective_rows(verdict: Verdict) -> list[ObjectiveRow]:
    """Return a row per system and objective; empty without objectives."""
    return [
        ObjectiveRow(
            name,
            f"p{objective.figures.percentile:g} {objective.name}",
            reached_text(objective),
            limit_of(objective),
            result_of(objective),
            mark_of(objective),
            MISSING if objective.met_in_draws is None else f"{percent(objective.met_in_draws)} %",
            one.saturation,
        )
        for name, one in verdict.systems.items()
        for objective in one.objectives
    ]


def high_latency(summary: Summary, one: SystemVerdict | None, name: str) -> tuple[float | None, Objective | None]:
    """Return the 99th percentile of a latency [s] and its objective.

    With an objective, the figure is that of the verdict, which includes requests that still waited (infinite: beyond
    the window); else it is that of the requests that have this latency.
    """
    own = None if one is None else next((item for item in one.objectives if item.name == name), None)
    if own is None:
        latency: Latency = getattr(summary, name.lower())
        return latency.p99_s, None
    is_late = own.figures.within is not None and own.figures.reached_s is None
    return (math.inf if is_late else own.figures.reached_s), own


def latency_number(value: float | None) -> str:
    """Return a percentile as text."""
    return LATE if value == math.inf else number(value)


def mark_of(one: Objective) -> str:
    """Return the class of the result of an objective."""
    if one.figures.is_met is None or not one.is_sure:
        return DOUBT
    return MET if one.figures.is_met else MISSED


def symbol_of(one: Objective) -> str:
    """Return whether an objective is met as one character."""
    return SYMBOLS[{True: MET, False: MISSED, None: DOUBT}[one.figures.is_met]]


def system_mark(one: SystemVerdict) -> str:
    """Return the class of the result of a system: missed if an objective surely is, else doubt if one is open."""
    marks = {mark_of(objective) for objective in one.objectives}
    return MISSED if MISSED in marks else DOUBT if DOUBT in marks or not marks else MET
