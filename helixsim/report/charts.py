"""Charts that are part of an HTML page: SVG with text as text, in the colours of the page, in light and dark.

A chart is data here; the macros of ``templates/charts.html.j2`` write its elements, coloured by CSS classes. Charts are
small: they stand beside each other on a wide screen and keep their size on a narrow one. The figures of ``style``
are files of their own instead.

Why no charting library: a report must open without a network and stay small. Embedded, Plotly's smallest bundle is
about 1 MB, Vega with Vega-Lite and its embedder 0.8 MB, ECharts 1 MB and Observable Plot with D3 0.5 MB, each larger
than a whole report of four systems, and all of them draw only after their script has run, so that a page without
scripts, or its print, is empty. The charts here are lines, steps and dots on two axes: the macros draw them when the
report is written, and ``templates/page.js.j2`` adds reading of values by pointer and keyboard. Diagrams made of bars
(placements, waterfalls, requests) are HTML tables, which keep the size of their text at any width.
"""

from __future__ import annotations

import json
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
    """An axis from ``low`` to ``high`` with its label and ticks (value, text); ``is_share``: values are 0..1, in %."""

    label: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    is_log: bool = False
    is_share: bool = False

    def share(self, value: float) -> float:
        """Return the position of a value, 0 at ``low`` and 1 at ``high``."""
        if self.is_log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


@dataclass(frozen=True, slots=True)
class Curve:
    """A line through points; NaN interrupts it. ``kind``: CSS class, which gives its colour; ``is_step``: stairs.

    ``name``: what the line shows; the values of named lines can be read from the page.
    """

    kind: str
    xs: Sequence[float]
    ys: Sequence[float]
    is_step: bool = False
    name: str = ""


@dataclass(frozen=True, slots=True)
class Dots:
    """Points of one ``kind`` (CSS class); ``labels``: what a browser shows of each under the pointer, or empty.

    ``name``: what the points belong to.
    """

    kind: str
    points: Sequence[tuple[float, float]]
    labels: Sequence[str] = ()
    name: str = ""


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
    shades, bands, guides, curves, dots
        Drawn in this order. A shade is a range of x in grey, a band the outline of an area.
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
    bands: tuple[Curve, ...] = ()
    shades: tuple[tuple[float, float], ...] = ()
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

    @property
    def has_labels(self) -> bool:
        """Whether there are points whose labels can be read."""
        return any(group.labels for group in self.dots)

    def values(self) -> str:
        """Return what the page needs to read values from the chart, as JSON; empty if no line has a name."""
        curves = [curve for curve in self.curves if curve.name]
        if not curves:
            return ""
        document = {
            "box": [self.left, self.right, self.top, self.bottom],
            **{
                name: {"label": axis.label, "low": axis.low, "high": axis.high, "log": axis.is_log,
                       "share": axis.is_share}
                for name, axis in (("x", self.x), ("y", self.y))
            },
            "curves": [
                {"name": curve.name, "kind": curve.kind, "step": curve.is_step,
                 "xs": [_digits(x) for x in curve.xs], "ys": [_digits(y) for y in curve.ys]}
                for curve in curves
            ],
        }  # fmt: skip
        return json.dumps(document, separators=(",", ":"), allow_nan=False)

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


def share_axis(label: str, high: float = 1.0) -> Axis:
    """Return an axis of shares from 0 to ``high``, with ticks in percent."""
    step = next((size for size in (0.01, 0.02, 0.05, 0.1, 0.25) if high / size <= _MOST_SHARES), 0.5)
    last = max(1, math.ceil(high / step - 1e-9))
    ticks = tuple((number * step, f"{number * step:.0%}") for number in range(last + 1))
    return Axis(label, 0.0, last * step, ticks, is_share=True)


_MOST_SHARES = 5


def _digits(value: float) -> float | None:
    """Return a value with the digits that can be read from a chart; None for a missing one."""
    return None if math.isnan(value) else float(f"{value:.5g}")


def shares_below(samples: Iterable[float]) -> tuple[list[float], list[float]]:
    """Return the cumulative distribution of samples: values in ascending order, and the share at most as large."""
    values = sorted(samples)
    return values, [(number + 1) / len(values) for number in range(len(values))]
