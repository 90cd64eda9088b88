"""Pages that answer one question, as ``report.html`` and ``report.md``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from helixsim.escape import markdown as escaped
from helixsim.report.templating import template
from helixsim.writing import write_text

if TYPE_CHECKING:
    from helixsim.report.charts import Chart
    from helixsim.report.heat_map import HeatMap
from helixsim.report.style import FigureFile


@dataclass(frozen=True, slots=True)
class PageTable:
    """A table of strings; ``is_text``: its cells are sentences, not numbers."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    is_text: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """A section of a page: sentences, a table, and figures.

    The page shows ``charts`` and ``maps`` in place of the figures, with ``keys``: CSS class and name of each line.
    """

    title: str
    paragraphs: tuple[str, ...] = ()
    table: PageTable | None = None
    figures: tuple[FigureFile, ...] = ()
    charts: tuple[Chart, ...] = ()
    maps: tuple[HeatMap, ...] = ()
    keys: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Page:
    """A question and its answer, the most important sentence first; ``question`` None: the title is shown instead."""

    title: str
    question: str | None
    answer: tuple[str, ...]
    parts: tuple[Part, ...]


def write_page(directory: Path, page: Page) -> None:
    """Write both forms; the files of the figures must be in ``figures/`` of the same directory."""
    html = template("page.html.j2").render(page=page)
    write_text(directory / "report.html", html)
    write_text(directory / "report.md", markdown(page))


def markdown(page: Page) -> str:
    """Return the page in Markdown; markup in its texts is escaped."""
    lines = [f"# {escaped(page.question or page.title)}", ""]
    for number, sentence in enumerate(page.answer):
        lines += [f"**{escaped(sentence)}**" if number == 0 else escaped(sentence), ""]
    for part in page.parts:
        lines += [f"## {escaped(part.title)}", ""]
        for sentence in part.paragraphs:
            lines += [escaped(sentence), ""]
        if part.table is not None and part.table.rows:
            marks = ["---", *(["---"] if part.table.is_text else ["---:"]) * (len(part.table.head) - 1)]
            lines += [_row(part.table.head), f"| {' | '.join(marks)} |", *map(_row, part.table.rows), ""]
        for figure in part.figures:
            lines += [f"![{escaped(figure.title)}](figures/{figure.name}.png)", "", f"*{escaped(figure.caption)}*", ""]
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(escaped, cells))} |"
