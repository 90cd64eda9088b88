"""One page with every figure of the paper, ours beside theirs, and nothing fetched from elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helixsim.report.style import styled, svg_and_png
from helixsim.report.templating import inline, template
from helixsim.writing import write_bytes, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure


Draw = Callable[[], "Figure"]
"""Makes a drawing, in the style that is set when it is called."""


@dataclass(frozen=True)
class Drawn:
    """A part of a figure: file name without suffix, its SVG (None: a table), its data, and sentences for below."""

    stem: str
    title: str
    svg: str | None
    rows: Sequence[Mapping[str, Any]]
    notes: Sequence[str]


def write_drawing(stem: Path, draw: Draw) -> str:
    """Draw in the house style, write ``stem`` as SVG and PNG, and return the SVG."""
    with styled():
        figure = draw()
        svg, png = svg_and_png(figure)
        write_bytes(stem.with_suffix(".svg"), svg)
        write_bytes(stem.with_suffix(".png"), png)
    return svg.decode()


def write_page(path: Path, document: Mapping[str, Any], figures: Sequence[tuple[str, Sequence[Drawn]]]) -> None:
    """Write the page.

    Parameters
    ----------
    document
        What ``summary.json`` holds.
    figures
        Name and drawn parts of each figure, in order.
    """
    shown = [
        (
            name,
            document["figures"][name],
            [(part, part.svg and inline(part.stem, part.svg)) for part in parts],
        )
        for name, parts in figures
    ]
    page = template("paper.html.j2", "helixsim.papers.helix", cell=cell_text).render(document=document, figures=shown)
    write_text(path, page)


def cell_text(value: object) -> str:
    """Return a value as it stands in a table: three significant digits, a dash for what does not exist."""
    if value is None or value == "":
        return "–"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return str(value)
