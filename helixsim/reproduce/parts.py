"""What a part of a figure is: it says which tasks it needs, and turns their outcomes into rows and a drawing."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from helixsim.config.edit import Edit, edits_of
from helixsim.hardware.profile_file import Section
from helixsim.metrics.stats import t_interval
from helixsim.report.paper_page import Draw
from helixsim.reproduce.tasks import Results, Task

FULL_SEEDS = 3

Row = dict[str, Any]
"""One line of the CSV file: text, numbers and None."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is spent: ``is_quick`` takes one seed, short windows and small searches."""

    is_quick: bool

    @property
    def seeds(self) -> int:
        """Return how many seeds each run is repeated under."""
        return 1 if self.is_quick else FULL_SEEDS


@dataclass(frozen=True)
class PartResult:
    """What a part shows.

    Parameters
    ----------
    rows
        The data, one mapping per line with the same keys.
    draw
        Draws them; None: the rows are shown as a table.
    notes
        Sentences for below the figure.
    """

    rows: list[Row]
    draw: Draw | None = None
    notes: list[str] = field(default_factory=list)


class Part(Protocol):
    """A part of a figure, read from its entry."""

    @property
    def title(self) -> str:
        """What the part is called on the page."""
        ...

    def tasks(self, effort: Effort) -> list[Task]:
        """Return what must be computed."""
        ...

    def result(self, effort: Effort, results: Results) -> PartResult:
        """Return what the part shows once that is done."""
        ...


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its limits at 95 %, the lower one not below zero; None where there is too little for an interval."""

    mean: float
    low: float | None = None
    high: float | None = None


def over_seeds(values: Sequence[float]) -> Estimate:
    """Return the mean of independent runs with Student's interval, which one run does not have."""
    interval = t_interval(values)
    if interval is None:
        return Estimate(statistics.fmean(values))
    return Estimate(interval.mean, interval.low, interval.high)


def matching(rows: Sequence[Mapping[str, Any]], **equal: Any) -> list[Mapping[str, Any]]:
    """Return the rows that have these values."""
    return [row for row in rows if all(row[key] == value for key, value in equal.items())]


def edits_in(entry: Section, key: str) -> tuple[Edit, ...]:
    """Return the edits that a mapping of dotted keys to values of an entry stands for."""
    return edits_of(entry.mapping(key), entry.where(key))
