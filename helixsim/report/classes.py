"""Classes of requests as rows of a table, shared by the terminal and the HTML report."""

from __future__ import annotations

from typing import NamedTuple

from helixsim.metrics.verdict import Objective, SystemVerdict
from helixsim.metrics.verdict_text import share_text
from helixsim.report.rows import rate_text
from helixsim.report.verdict_rows import DOUBT, MET, MISSED, SYMBOLS, mark_of
from helixsim.results.run import Run
from helixsim.results.runset import RunSet
from helixsim.units import MISSING


class ClassRow(NamedTuple):
    """A class of requests: its name, and of each system a text and a mark (``MET``, ``MISSED``, ``DOUBT`` or none)."""

    name: str
    cells: tuple[tuple[str, str], ...]


def class_head(runs: RunSet) -> str:
    """Return what the cells are."""
    return "class: req/s\nwithin SLO" if runs.slo.is_stated else "class:\nreq/s"


def class_rows(runs: RunSet) -> list[ClassRow]:
    """Return a row per class of the requests; empty without classes."""
    names = sorted({name for run in runs.values() for name in run.summary.classes})
    systems = runs.verdict.systems
    return [ClassRow(name, tuple(_cell(run, systems[run.name], name) for run in runs.values())) for name in names]


def _objectives(run: Run, one: SystemVerdict, name: str) -> list[Objective]:
    """Return the objectives of a class: its own, or the general ones if it alone has them."""

    def of(class_: str) -> list[Objective]:
        return [item for item in one.objectives if item.name.startswith(f"{class_} ")]

    if found := of(name):
        return found
    is_alone = all(of(other) for other in run.summary.classes if other != name)
    return [item for item in one.objectives if " " not in item.name] if is_alone else []


def _cell(run: Run, one: SystemVerdict, name: str) -> tuple[str, str]:
    """Return the goodput of a class and the share of its requests within its objectives, marked by those of its own.

    Without objectives it is the rate of completed requests.
    """
    figures = run.summary.classes.get(name)
    if figures is None:
        return MISSING, ""
    if figures.goodput_per_s is None:
        return rate_text(figures.requests_per_s), ""
    text = f"{rate_text(figures.goodput_per_s)} ({share_text(figures.slo_attainment)} %)"
    own = _objectives(run, one, name)
    if not own:
        return text, ""
    marks = {mark_of(item) for item in own}
    mark = MISSED if MISSED in marks else DOUBT if DOUBT in marks else MET
    sign = SYMBOLS[MISSED if any(item.figures.is_met is False for item in own) else MET]
    return f"{text} {sign if mark != DOUBT else sign + '?'}", mark
