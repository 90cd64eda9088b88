"""Charts that are part of an HTML page: SVG with text as text, in the colours of the page, in light and dark.

A chart is data here; the macros of ``templates/charts.html.j2`` write its elements, coloured by CSS classes. Charts are
small: they stand beside each other on a wide screen and keep their size on a narrow one. The figures of ``style``
are files of their own instead.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 10.0, 14.0, 40.0
_GAP, _HEAD, _KEY = 16.0, 30.0, 100.0
"""Space between charts of a sheet, height of a heading, and width of an entry of the legend."""

_FEW_DECADES = 2.6
"""Logarithmic axes over fewer decades have ticks at 1, 2 and 5, others at powers of ten."""


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis from ``low`` to ``high`` with its label and ticks (value, text)."""

    label: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    is_log: bool = False

    def share(self, value: float) -> float:
        """Return the position of a value, 0 at ``low`` and 1 at ``high``."""
        if self.is_log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


@dataclass(frozen=True, slots=True)
class Curve:
    """A line through points; NaN interrupts it. ``kind``: CSS class, which gives its colour; ``is_step``: stairs."""

    kind: str
    xs: Sequence[float]
    ys: Sequence[float]
    is_step: bool = False


@dataclass(frozen=True, slots=True)
class Dots:
    """Points of one ``kind`` (CSS class); ``labels``: what a browser shows of each under the pointer, or empty."""

    kind: str
    points: Sequence[tuple[float, float]]
    labels: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Note:
    """Text at a point; ``anchor``: ``start``, ``middle`` or ``end`` of the text is there."""

    x: float
    y: float
    text: str
    anchor: str = "start"


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart with a title above it and a description for screen readers.

    Parameters
    ----------
    name
        Identifier, unique on the page.
    guides, curves, dots
        Drawn in this order.
    width, height
        Size [px at a scale of 1].
    """

    name: str
    title: str
    description: str
    x: Axis
    y: Axis
    curves: tuple[Curve, ...] = ()
    dots: tuple[Dots, ...] = ()
    guides: tuple[Curve, ...] = ()
    notes: tuple[Note, ...] = ()
    width: float = 340.0
    height: float = 260.0

    @property
    def left(self) -> float:
        """Left edge of the plot."""
        return _LEFT

    @property
    def right(self) -> float:
        """Right edge of the plot."""
        return self.width - _RIGHT

    @property
    def top(self) -> float:
        """Upper edge of the plot."""
        return _TOP

    @property
    def bottom(self) -> float:
        """Lower edge of the plot."""
        return self.height - _BOTTOM

    def column(self, value: float) -> float:
        """Return the horizontal position of a value."""
        return round(self.left + self.x.share(value) * (self.right - self.left), 1)

    def line(self, value: float) -> float:
        """Return the vertical position of a value."""
        return round(self.bottom - self.y.share(value) * (self.bottom - self.top), 1)

    def path(self, curve: Curve) -> str:
        """Return the data of a curve as an SVG path."""
        parts: list[str] = []
        last: float | None = None
        for x, y in zip(curve.xs, curve.ys, strict=True):
            if math.isnan(x) or math.isnan(y):
                last = None
                continue
            column, line = self.column(x), self.line(y)
            if last is None:
                parts.append(f"M{column:g} {line:g}")
            elif curve.is_step:
                parts.append(f"H{column:g}" if line == last else f"H{column:g}V{line:g}")
            else:
                parts.append(f"L{column:g} {line:g}")
            last = line
        return "".join(parts)


def sheet(
    title: str, rows: Sequence[tuple[str, Sequence[Chart]]], keys: Sequence[tuple[str, str]], *, columns: int = 3
) -> str:
    """Return charts as one SVG file, light or dark as the reader prefers.

    Parameters
    ----------
    rows
        Charts with a heading, each group on lines of its own.
    keys
        Kind and name of each curve.
    """
    from helixsim.report.templating import template

    placed: list[tuple[float, float, Chart]] = []
    heads: list[tuple[float, float, str]] = []
    x_step = max((chart.width for _, charts in rows for chart in charts), default=0.0) + _GAP
    y = _GAP
    for heading, charts in rows:
        heads.append((_GAP, y + 12, heading))
        y += _HEAD
        for first in range(0, len(charts), columns):
            line = charts[first : first + columns]
            placed += [(_GAP + number * x_step, y, chart) for number, chart in enumerate(line)]
            y += max(chart.height for chart in line) + _HEAD
    width = 2 * _GAP + columns * x_step
    at = (width - _GAP - _KEY * (len(keys) - number) for number in range(len(keys)))
    return template("charts.svg.j2").render(
        title=title, width=width, height=y, placed=placed, heads=heads,
        keys=[(x, _GAP + 8, kind, name) for x, (kind, name) in zip(at, keys, strict=True)],
    )  # fmt: skip


def linear_axis(label: str, low: float, high: float, *, at_most: int = 6, unit: str = "") -> Axis:
    """Return an axis that begins at ``low`` and ends at ``high`` or a round number above; ticks at round numbers."""
    span = high - low if high > low else 1.0
    step = next(
        size
        for decade in range(math.floor(math.log10(span)) - 2, math.floor(math.log10(span)) + 3)
        for size in (10.0**decade, 2 * 10.0**decade, 5 * 10.0**decade)
        if span / size <= at_most
    )
    first, last = math.ceil(low / step - 1e-9), math.ceil((low + span) / step - 1e-9)
    ticks = tuple((number * step, short(number * step) + unit) for number in range(first, last + 1))
    return Axis(label, low, last * step, ticks)


def log_axis(label: str, values: Iterable[float]) -> Axis:
    """Return a logarithmic axis around positive values, with ticks at powers of ten or at 1, 2 and 5 times them."""
    found = list(values) or [1.0, 10.0]
    low, high = min(found) / 1.15, max(found) * 1.15
    if math.log10(high / low) < 0.5:
        middle = math.sqrt(low * high)
        low, high = middle / 1.8, middle * 1.8
    steps = (1, 2, 5) if math.log10(high / low) < _FEW_DECADES else (1,)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [factor * 10.0**decade for decade in decades for factor in steps]
    return Axis(label, low, high, tuple((tick, short(tick)) for tick in ticks if low <= tick <= high), is_log=True)


def short(value: float) -> str:
    """Return a number for a tick: at most three digits, thousands as k, millions as M."""
    size = abs(value)
    for limit, letter in ((1e6, "M"), (1e3, "k")):
        if size >= limit:
            return f"{value / limit:.3g} {letter}".replace("-", "−")
    return f"{value:.3g}".replace("-", "−")


def shares_below(samples: Iterable[float]) -> tuple[list[float], list[float]]:
    """Return the cumulative distribution of samples: values in ascending order, and the share at most as large."""
    values = sorted(samples)
    return values, [(number + 1) / len(values) for number in range(len(values))]
