"""A run on one screen of the terminal: the verdict, the figures that it rests on, and the placements as strips."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from helixsim.domain.figures import Latency
from helixsim.domain.summary import milliseconds
from helixsim.escape import printable, printable_tree
from helixsim.metrics.saturation import Saturation
from helixsim.metrics.verdict import SystemVerdict, Verdict
from helixsim.metrics.verdict_text import answer, main_doubt, share_text
from helixsim.report import whatif_rows
from helixsim.report.autoscaling_rows import autoscaling_columns
from helixsim.report.classes import class_head, class_rows
from helixsim.report.leg_rows import pool_columns
from helixsim.report.rows import error_band, output_text, rate_text
from helixsim.report.selection import selection_sentences
from helixsim.report.strip import LANES, strips
from helixsim.report.tables import WIDTH, rendered
from helixsim.report.verdict_rows import (
    DOUBT,
    LATE,
    MET,
    MISSED,
    SYMBOLS,
    high_latency,
    late_note,
    latency_number,
    mark_of,
    symbol_of,
    system_mark,
)  # fmt: skip
from helixsim.results.run import Run
from helixsim.results.runset import RunSet
from helixsim.units import MISSING, number, percent

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

STYLES = {MET: "green", MISSED: "bold red", DOUBT: "yellow", "": ""}
"""Colours by meaning."""

_BANDED = {"ttft": "TTFT", "tpot": "TPOT", "throughput": "tokens/s"}

_TITLE = 9
_GAP = 2


class Cell(tuple[str, str]):
    """A text and the class of its meaning: ``MET``, ``MISSED``, ``DOUBT`` or ``""``."""

    __slots__ = ()

    def __new__(cls, text: str, mark: str = "") -> Cell:
        """Return the cell."""
        return super().__new__(cls, (text, mark))


class _Column(NamedTuple):
    """A column of the table, and its rank among those that narrow screens leave out."""

    title: str
    cell: Callable[[Run, SystemVerdict], Cell]
    rank: int = 9


def screen_text(runs: RunSet, *, width: int = WIDTH, color: bool = False, verbose: bool = False) -> str:
    """Return the verdict, a row of figures per system, a row per class of requests, and the placements.

    ``verbose``: all doubts and all lanes of the placements.
    """
    verdict = runs.verdict
    parts: list[RenderableType] = [*verdict_lines(verdict, verbose=verbose), ""]
    if runs.whatif:
        parts += [*_whatif(runs, width), ""]
        if not verbose:
            return rendered(parts[:-1], width, color)
    columns = _columns(runs)
    names = [printable(name, one_line=True) for name in runs]
    cells = [[column.cell(run, verdict.systems[name]) for name, run in runs.items()] for column in columns]
    kept = _fitting([(one.title, one.rank) for one in columns], cells, width - max(map(len, [*names, "system"])))
    lines = [[Cell(name), *(cells[number][place] for number in kept)] for place, name in enumerate(names)]
    parts.append(_grid(["system", *(columns[number].title for number in kept)], lines))
    if any(LATE in cell[0] for line in lines for cell in line):
        parts.append(_soft(late_note(runs)))
    parts += _classes(runs, width)
    parts += _pools(runs)
    placements = {name: run.placement_document for name, run in runs.items()}
    parts += ["", *strip_lines(placements, width, most_lanes=None if verbose else max(1, LANES // len(runs)))]
    return rendered(parts, width, color)


def _classes(runs: RunSet, width: int) -> list[RenderableType]:
    """Return a row per class of requests with a column per system, the best systems where not all fit."""
    rows = class_rows(runs)
    if not rows:
        return []
    head, names = class_head(runs), list(runs)
    columns = [[Cell(*row.cells[place]) for row in rows] for place in range(len(names))]
    ranking = [*runs.verdict.ranking, *(name for name in names if name not in runs.verdict.ranking)]
    titles = [(printable(name, one_line=True), len(names) - ranking.index(name)) for name in names]
    labels = [printable(row.name, one_line=True) for row in rows]
    kept = _fitting(titles, columns, width - max(_least(head), *map(len, labels)))
    lines = [[Cell(label), *(columns[place][number] for place in kept)] for number, label in enumerate(labels)]
    shown: list[RenderableType] = ["", _grid([head, *(titles[place][0] for place in kept)], lines)]
    if len(kept) < len(names):
        shown.append(_soft(f"{len(names) - len(kept)} more systems with -v"))
    return shown


def _pools(runs: RunSet) -> list[RenderableType]:
    """Return a row per system that prefills and decodes on different nodes, or whose replicas come and go."""
    shown: list[RenderableType] = []
    for part, columns in (("disaggregation", pool_columns(runs)), ("autoscaling", autoscaling_columns(runs))):
        summaries = {name: run.summary for name, run in runs.items() if getattr(run.summary, part) is not None}
        lines = [
            [Cell(printable(name, one_line=True)), *(Cell(text(one)) for _, text in columns)]
            for name, one in summaries.items()
        ]
        shown += ["", _grid(["system", *(title for title, _ in columns)], lines)] if columns else []
    return shown


def verdict_lines(verdict: Verdict, *, verbose: bool = False) -> list[RenderableType]:
    """Return the sentences of the verdict with their titles; only the first doubt of the best system if not verbose."""
    said, best = answer(verdict), verdict.systems[verdict.best]
    shown = main_doubt(verdict)
    more = sum(title == "Doubt" for title, _ in said) - bool(shown)
    lines: list[RenderableType] = []
    for title, text in said:
        if title == "Doubt" and not verbose:
            if text != shown:
                if not shown:
                    lines.append(_titled(title, f"{more} about other systems, with -v.", DOUBT))
                    shown = text
                continue
            text = f"{text} {more} more with -v." if more else text  # noqa: PLW2901
        lines.append(_titled(title, text, _meaning(title, best)))
    return lines


def placements_text(
    placements: Mapping[str, Mapping[str, Any]], *, width: int = WIDTH, color: bool = False, verbose: bool = False
) -> str:
    """Return a row and a strip per placement (``results.placement_json``), and why it was selected."""
    head = (
        "system",
        "strategy",
        "max-flow tokens/s",
        "gap %",
        "nodes/ request",
        "at most",
        "replicas",
        "nodes used",
    )
    rows = [[Cell(text) for text in (name, *_placement_cells(one))] for name, one in placements.items()]
    parts: list[RenderableType] = [_grid(head, rows, texts=2), ""]
    parts += strip_lines(placements, width, most_lanes=None if verbose else max(1, LANES // len(placements)))
    said = [(name, text) for name, one in placements.items() for text in selection_sentences(one["notes"])]
    parts += ["", *(_titled(name, text, "") for name, text in said)] if said else []
    return rendered(parts, width, color)


def _placement_cells(one: Mapping[str, Any]) -> tuple[str, ...]:
    used = sum(held is not None for held in one["layers"].values())
    return (
        one["strategy"],
        number(one["max_flow_tokens_per_s"]),
        percent(one["gap"]),
        number(one["mean_hops"]),
        str(one["max_hops"]),
        str(len(one.get("replicas") or ())),
        f"{used} of {len(one['layers'])}",
    )


def strip_lines(
    placements: Mapping[str, Mapping[str, Any]], width: int, *, most_lanes: int | None = None
) -> list[RenderableType]:
    """Return placements by system as strips of text."""
    from rich.text import Text

    documents = {name: printable_tree(one) for name, one in placements.items()}
    column = min(max(len(printable(name, one_line=True)) for name in placements), 20) + 2
    lines: list[RenderableType] = []
    for name, text in strips(documents, width - column, most_lanes=most_lanes):
        label = printable(name, one_line=True)[: column - 2].ljust(column)
        lines.append(Text.assemble((label, "bold"), text) if name else Text(f"{label}{text}", no_wrap=bool(lines)))
    return lines


def _whatif(runs: RunSet, width: int) -> list[RenderableType]:
    changes: list[RenderableType] = [_titled(name, text, "") for name, text in whatif_rows.changes(runs)]
    rows = [
        [Cell(text, MISSED if text in {"OVERLOADED", "no result"} else "") for text in row]
        for row in whatif_rows.rows(runs)
    ]
    ranks = {"$ per Mtok": 1, "output tokens/s": 2}
    columns = [[row[number] for row in rows] for number in range(len(whatif_rows.HEAD))]
    kept = _fitting([(title, ranks.get(title, 9)) for title in whatif_rows.HEAD], columns, width + _GAP)
    lines = [[row[number] for number in kept] for row in rows]
    shown: list[RenderableType] = [*changes, "", _grid([whatif_rows.HEAD[number] for number in kept], lines, texts=2)]
    if any(LATE in cell[0] for row in lines for cell in row):
        shown.append(_soft(late_note(runs)))
    return shown


def _columns(runs: RunSet) -> list[_Column]:
    """Return the columns of the table; those of the objectives only where they are stated."""
    metric = _banded(runs.verdict)
    columns: list[_Column] = []
    if runs.slo.is_stated:
        columns += [
            _Column("within SLO", _met),
            _Column("goodput req/s", lambda run, _: Cell(rate_text(run.summary.throughput.goodput_per_s))),
        ]
    columns.append(_Column("output tokens/s", lambda run, _: Cell(output_text(run.summary))))
    for name, unit, factor in (("TTFT", "s", 1.0), ("TPOT", "ms", 1e3), ("E2EL", "s", 1.0)):
        if name != "E2EL" or runs.slo.e2el_s is not None:  # latencies of requests matter where they have an objective
            columns += _latency_columns(runs, name, unit, factor)
    return [
        *columns,
        _Column("$/M tok.", lambda run, _: Cell(number(run.summary.cost.usd_per_mtok)), 5),
        _Column("load", lambda _, one: _load(one), 4),
        _Column("limited by", lambda _, one: Cell(one.limiting_node or one.limited_by or MISSING), 2),
        _Column(f"80 % band, {_BANDED[metric]} %", lambda run, _: _band(run, metric), 1),
    ]


def _latency_columns(runs: RunSet, name: str, unit: str, factor: float) -> list[_Column]:
    """Return the median and the 99th percentile; that of an objective includes requests that were still waiting."""

    def text(value_s: float | None) -> str:
        return number(value_s if factor == 1.0 else milliseconds(value_s))

    def latency(run: Run) -> Latency:
        found: Latency = getattr(run.summary, name.lower())
        return found

    def high(run: Run, one: SystemVerdict) -> Cell:
        value_s, own = high_latency(run.summary, one, name)
        shown = latency_number(value_s if factor == 1.0 else milliseconds(value_s))
        return Cell(shown) if own is None else Cell(f"{shown} {symbol_of(own)}", mark_of(own))

    return [
        _Column(f"p50 {name}\n{unit}", lambda run, _: Cell(text(latency(run).p50_s)), 3),
        _Column(f"p99 {name}\n{_allowed(runs, name, factor)}{unit}", high),
    ]


def _banded(verdict: Verdict) -> str:
    """Return the metric whose model error is shown: the one in which the best two systems are compared."""
    key = "" if verdict.lead is None else verdict.lead.drawn
    return {"mean_ttft_ms": "ttft", "output_throughput": "throughput"}.get(key, "tpot")


def _allowed(runs: RunSet, name: str, factor: float) -> str:
    """Return the objective of a latency for the title of its column."""
    limits = {o.figures.limit_s for one in runs.verdict.systems.values() for o in one.objectives if o.name == name}
    return f"≤ {factor * limits.pop():g} " if len(limits) == 1 else ""


def _met(run: Run, one: SystemVerdict) -> Cell:
    """Return whether every objective is met, and the share of requests within all of them."""
    share = f"{share_text(run.summary.throughput.slo_attainment)} %"
    if one.is_met is None:
        return Cell(share, DOUBT)
    mark = system_mark(one)
    return Cell(f"{SYMBOLS[MET if one.is_met else MISSED]}{'?' if mark == DOUBT else ''} {share}", mark)


def _load(one: SystemVerdict) -> Cell:
    text = one.saturation if one.is_overloaded else one.saturation.lower()
    return Cell(text, MISSED if one.is_overloaded else DOUBT if one.saturation == Saturation.BACKLOGGED else "")


def _band(run: Run, metric: str) -> Cell:
    error = run.model_error
    if error is None:
        return Cell(MISSING)
    return Cell(error_band(error, metric), "" if error.label == "validated" else DOUBT)


def _meaning(title: str, best: SystemVerdict) -> str:
    if title == "Verdict":
        return system_mark(best) if best.objectives else ""
    return {"Overloaded": MISSED, "Doubt": DOUBT}.get(title, "")


def _titled(title: str, text: str, mark: str) -> RenderableType:
    """Return a title and a text that is wrapped beside it."""
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True, min_width=_TITLE)
    grid.add_column(overflow="fold")
    grid.add_row(
        Text(printable(title, one_line=True), style="bold"), Text(printable(text, one_line=True), STYLES[mark])
    )
    return grid


def _fitting(titles: Sequence[tuple[str, int]], cells: Sequence[Sequence[Cell]], width: int) -> list[int]:
    """Return the columns that fit beside each other, without those of the lowest ranks."""
    kept = list(range(len(titles)))
    widths = [
        max(_least(title), *(len(cell[0]) for cell in own)) + _GAP
        for (title, _), own in zip(titles, cells, strict=True)
    ]
    while len(kept) > 1 and sum(widths[number] for number in kept) > width:
        kept.remove(min(kept, key=lambda number: (titles[number][1], number)))
    return kept


def _least(title: str) -> int:
    """Return the least width of a title: its longest line, or its longest word if it is not divided into lines."""
    return max(map(len, title.split("\n") if "\n" in title else title.split(" ")))


def _grid(head: Sequence[str], rows: Sequence[Sequence[tuple[str, str]]], *, texts: int = 1) -> RenderableType:
    """Return a table without rules; the first columns are texts."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_edge=False, padding=(0, 1), header_style="bold")
    for column, title in enumerate(head):
        widest = max([_least(title), *(len(row[column][0]) for row in rows)])
        table.add_column(
            Text(printable(title)), justify="left" if column < texts else "right", overflow="fold", vertical="bottom",
            width=widest,
        )  # fmt: skip
    for row in rows:
        table.add_row(*(_cell(text, mark) for text, mark in row))
    return table


def _cell(text: str, mark: str) -> Text:
    from rich.text import Text

    return Text(printable(text, one_line=True), STYLES[mark])


def _soft(text: str) -> RenderableType:
    from rich.text import Text

    return Text(text, style="dim")
