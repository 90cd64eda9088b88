"""Runs figures and writes everything: one page, and for each part SVG, PNG and CSV."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import helixsim
from helixsim.escape import csv_text
from helixsim.jsonio import json_values
from helixsim.papers.helix import locked
from helixsim.papers.helix.entries import Figure
from helixsim.papers.helix.parts import Effort, PartResult
from helixsim.papers.helix.published import load_causes
from helixsim.papers.helix.tasks import Results, perform_all
from helixsim.papers.helix.verdicts import (
    CellCheck,
    ClaimCheck,
    OrderCheck,
    RatioRow,
    cell_checks,
    claim_checks,
    load_claims,
    order_checks,
    ratio_rows,
)
from helixsim.runtime.identity import library_versions
from helixsim.runtime.pool import Executor, Report
from helixsim.writing import write_rows, write_text

SCHEMA = 1


@dataclass(frozen=True)
class Reproduction:
    """All figures with their results, and what follows from them together."""

    effort: Effort
    figures: list[Figure]
    parts: dict[tuple[str, str], PartResult]
    cells: list[CellCheck]
    orders: list[OrderCheck]
    claims: list[ClaimCheck]
    ratios: list[RatioRow]


def reproduce(
    figures: Sequence[Figure],
    effort: Effort,
    out: Path,
    executor: Executor,
    *,
    force: bool = False,
    progress: Report = lambda _share, _what: None,
) -> Reproduction:
    """Run what the figures need and write them to ``out``.

    Parameters
    ----------
    out
        Gets ``index.html``, ``summary.json``, ``figures/NAME-PART.{svg,png,csv}``, and ``cache/`` with the outcomes of
        all tasks, where a later call finds them again.
    executor, force, progress
        As for ``tasks.perform_all``.
    """
    tasks = [task for figure in figures for part in figure.parts.values() for task in part.tasks(effort)]
    results = perform_all(tasks, out / "cache", executor, force=force, progress=progress)
    done = evaluate(figures, effort, results)
    write(done, out)
    return done


def evaluate(figures: Sequence[Figure], effort: Effort, results: Results) -> Reproduction:
    """Turn the outcomes of tasks into rows and verdicts."""
    parts = {
        (figure.name, name): part.result(effort, results) for figure in figures for name, part in figure.parts.items()
    }
    rows = [row for result in parts.values() for row in result.rows if "column" in row]
    cells = cell_checks(rows, load_causes())
    claims = claim_checks(rows, load_claims())
    return Reproduction(effort, list(figures), parts, cells, order_checks(cells), claims, ratio_rows(rows))


def write(done: Reproduction, out: Path) -> None:
    """Write page, drawings, data and summary."""
    from helixsim.papers.helix.paper_page import Drawn, write_drawing, write_page

    folder = out / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    shown: dict[str, list[Drawn]] = {}
    for figure in done.figures:
        for name, part in figure.parts.items():
            result = done.parts[figure.name, name]
            stem = f"{figure.name}-{name}"
            write_csv(folder / f"{stem}.csv", result.rows)
            svg = None if result.draw is None else write_drawing(folder / stem, result.draw)
            shown.setdefault(figure.name, []).append(Drawn(stem, part.title, svg, result.rows, result.notes))
    document = summary(done)
    write_text(out / "summary.json", json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    write_page(out / "index.html", document, [(figure.name, shown[figure.name]) for figure in done.figures])


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows that have the same keys; None becomes an empty field."""
    write_rows(path, [{key: csv_text(value) for key, value in json_values(row).items()} for row in rows])


def summary(done: Reproduction) -> dict[str, Any]:
    """Return everything as JSON values."""
    met = [check for check in done.cells if check.is_met]
    document = {
        "schema": SCHEMA,
        "helixsim": helixsim.__version__,
        "versions": library_versions(),
        "other_versions": locked.differences(),
        "quick": done.effort.is_quick,
        "seeds": done.effort.seeds,
        "cells": [asdict(check) | {"error": check.error, "met": check.is_met} for check in done.cells],
        "cells_met": len(met),
        "orders": [asdict(check) for check in done.orders],
        "orders_kept": sum(not check.swapped for check in done.orders),
        "claims": [asdict(check) | {"holds": check.holds, "sentence": check.sentence} for check in done.claims],
        "ratios": [asdict(row) for row in done.ratios],
        "figures": {
            figure.name: {
                "paper": figure.paper,
                "title": figure.title,
                "text": figure.text,
                "parts": {
                    name: {"title": part.title, "rows": done.parts[figure.name, name].rows,
                           "notes": done.parts[figure.name, name].notes}
                    for name, part in figure.parts.items()
                },
            }
            for figure in done.figures
        },
    }  # fmt: skip
    values: dict[str, Any] = json_values(document)
    return values
