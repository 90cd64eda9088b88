"""What a part of a figure is: it says which tasks it needs, and turns their outcomes into rows and a drawing."""

from __future__ import annotations

import statistics
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import PlainValidator, PrivateAttr, ValidationInfo

import helixsim as hx
from helixsim.errors import ConfigError
from helixsim.metrics.stats import t_interval
from helixsim.papers.helix.paper_page import Draw
from helixsim.papers.helix.published import Published
from helixsim.papers.helix.tasks import Results, Task
from helixsim.validation import Section, Words

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


@dataclass(frozen=True, slots=True)
class EntryContext:
    """What an entry is read with.

    Parameters
    ----------
    name
        What messages call the entry.
    folder
        Folder that names of experiments count from.
    """

    name: str
    folder: Path
    published: Published


def _context(info: ValidationInfo) -> EntryContext:
    return cast(EntryContext, info.context)


def _experiment(value: Any, info: ValidationInfo) -> Path:
    if not isinstance(value, str) or not value:
        raise ValueError(f"expected the name of a file, got {value!r}")
    path = _context(info).folder / value
    if not path.is_file():
        raise ValueError(f"no such file: {path}")
    return path


def _edits(value: Any, info: ValidationInfo) -> tuple[hx.Edit, ...]:
    if not isinstance(value, dict):
        raise ValueError(f"expected a mapping of keys to values, got {value!r}")
    try:
        return tuple(hx.Edit.of(key, one, _context(info).name) for key, one in value.items())
    except ConfigError as error:
        raise ValueError(str(error)) from error


ExperimentFile = Annotated[Path, PlainValidator(_experiment)]
Edits = Annotated[tuple[hx.Edit, ...], PlainValidator(_edits)]
"""Written as a mapping of dotted keys to values."""


class Part(Section, ABC):
    """A part of a figure, as its entry describes it."""

    title: Words
    _published: Published = PrivateAttr()

    def model_post_init(self, context: EntryContext, /) -> None:
        """Keep the published values."""
        self._published = context.published

    @abstractmethod
    def tasks(self, effort: Effort) -> list[Task]:
        """Return what must be computed."""

    @abstractmethod
    def result(self, effort: Effort, results: Results) -> PartResult:
        """Return rows, drawing and notes, once everything is computed."""


def check_titles(chosen: list[str], titles: Collection[str]) -> list[str]:
    """Return titles that a part chooses among its own; ``ValueError`` if there is no such title."""
    for title in chosen:
        if title not in titles:
            raise ValueError(f"{title!r} is none of {', '.join(dict.fromkeys(titles))}")
    return chosen


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
