"""Heat maps that are part of an HTML page: SVG with text as text, in the colours of the page, in light and dark."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from helixsim.config.sweep_file import Plot
from helixsim.report.sweep_figures import Scale
from helixsim.results.sweep import SweepResults, plain_value
from helixsim.units import MISSING, number

Row = Mapping[str, Any]
_TOP, _BOTTOM, _DIGIT = 4.0, 40.0, 6.2
"""Margins, and width of a character [px at a scale of 1]."""
_LEAST_WIDTH, _LONGEST = 46.0, 24


class HeatCell(NamedTuple):
    """A cell: its corner, text, colour (``depth`` 0..1; None: no value), and what is shown of it under the pointer."""

    x: float
    y: float
    text: str
    depth: float | None
    tip: str


@dataclass(frozen=True, slots=True)
class HeatMap:
    """Values of a system over two axes, as a table of colours.

    Parameters
    ----------
    name
        Identifier, unique on the page.
    labels
        Of x, y and the values.
    columns, rows
        Texts of the ticks, from left to right and from the top down.
    values
        A line per row; None: no result.
    low, high
        Values of the palest and of the deepest colour.
    about
        What the values are means over.
    """

    name: str
    system: str
    title: str
    labels: tuple[str, str, str]
    columns: tuple[str, ...]
    rows: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    low: float
    high: float
    about: str = ""

    cell_height = 28.0

    @property
    def description(self) -> str:
        """What the map shows, for screen readers."""
        known = [one for line in self.values for one in line if one is not None]
        x, y, value = self.labels
        ends = f"from {number(min(known))} to {number(max(known))}" if known else "without a result"
        return f"{value} of {self.system} over {x} (columns) and {y} (rows), {ends}. Arrow keys read the cells."

    @property
    def scale(self) -> str:
        """What pale and deep colours stand for."""
        ends = f"Pale: {number(self.low)}; deep: {number(self.high)}." if self.high > self.low else ""
        return f"{ends} {self.about}".strip()

    @property
    def cell_width(self) -> float:
        """Width of a cell."""
        texts = [*map(_short, self.columns), *(_text(value) for line in self.values for value in line)]
        return max(_LEAST_WIDTH, _DIGIT * max(map(len, texts), default=0) + 12)

    @property
    def left(self) -> float:
        """Left edge of the cells."""
        return 28 + _DIGIT * max((len(_short(text)) for text in self.rows), default=0)

    @property
    def width(self) -> float:
        """Width of the map."""
        return self.left + len(self.columns) * self.cell_width + 4

    @property
    def bottom(self) -> float:
        """Lower edge of the cells."""
        return _TOP + len(self.rows) * self.cell_height

    @property
    def height(self) -> float:
        """Height of the map."""
        return self.bottom + _BOTTOM

    @property
    def ticks(self) -> tuple[list[tuple[float, str]], list[tuple[float, str]]]:
        """(Position, text) of the ticks of x and y."""
        wide, high = self.cell_width, self.cell_height
        across = [(self.left + (place + 0.5) * wide, _short(text)) for place, text in enumerate(self.columns)]
        return across, [(_TOP + (place + 0.5) * high, _short(text)) for place, text in enumerate(self.rows)]

    def cells(self) -> Iterator[HeatCell]:
        """Yield the cells row by row."""
        x, y, label = self.labels
        width, left = self.cell_width, self.left
        for row, (vertical, line) in enumerate(zip(self.rows, self.values, strict=True)):
            for column, (horizontal, value) in enumerate(zip(self.columns, line, strict=True)):
                shown = "no result" if value is None else number(value)
                tip = f"{self.system}\n{x}: {horizontal}\n{y}: {vertical}\n{label}: {shown}"
                corner = left + column * width, _TOP + row * self.cell_height
                yield HeatCell(*corner, _text(value), self._depth(value), tip)

    def _depth(self, value: float | None) -> float | None:
        if value is None:
            return None
        return (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5


def heat_maps(results: SweepResults, means: Sequence[Row], plot: Plot, name: str) -> list[HeatMap]:
    """Return a heat map per system over two axes, with one scale of colours for all."""
    value = plot.value or results.objective
    labels = results.label(plot.x), results.label(plot.y), results.label(value)
    across = Scale(labels[0], [row[plot.x] for row in means]).texts
    down = Scale(labels[1], [row[plot.y] for row in means]).texts[::-1]  # the largest at the top
    grouped: dict[tuple[str, str, str], list[float]] = {}
    for row in means:
        if row.get(value) is not None:
            place = str(row["system"]), str(plain_value(row[plot.x])), str(plain_value(row[plot.y]))
            grouped.setdefault(place, []).append(float(row[value]))
    known = {place: float(np.mean(values)) for place, values in grouped.items()}
    low, high = min(known.values(), default=0.0), max(known.values(), default=0.0)
    others = [axis for axis in results.axes if axis not in {plot.x, plot.y} and len({str(r[axis]) for r in means}) > 1]
    about = f"Means over {', '.join(map(results.label, others))}." if others else ""
    systems = list(dict.fromkeys(str(row["system"]) for row in means))
    return [
        HeatMap(
            f"{name}-{place}", system,
            f"{labels[2][0].upper()}{labels[2][1:]}" + (f": {system}" if len(systems) > 1 else ""),
            labels, tuple(across), tuple(down),
            tuple(tuple(known.get((system, column, row)) for column in across) for row in down), low, high, about,
        )
        for place, system in enumerate(systems)
    ]  # fmt: skip


def _text(value: float | None) -> str:
    return MISSING if value is None else number(value)


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
