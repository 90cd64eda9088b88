"""Files of a sweep: ``results.csv``, ``means.csv``, ``failed.csv``, ``sweep.json`` and the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helixsim.errors import ConfigError
from helixsim.report.charts import sheet
from helixsim.report.heat_map import heat_maps
from helixsim.report.pages import Page, PageTable, Part, write_page
from helixsim.report.rows import spread
from helixsim.report.sweep_charts import line_keys, sweep_charts
from helixsim.report.sweep_figures import defaults, write_sweep_figures
from helixsim.results.files import write_csv, write_json
from helixsim.results.sweep import (
    MEANS,
    SweepResults,
    document,
    error_of,
    frame,
    mean_rows,
    plain_value,
    ranked,
    short_names,
)
from helixsim.units import MISSING, number
from helixsim.writing import write_text

if TYPE_CHECKING:
    import pandas as pd

BEST_SHOWN = 10
_SMALL = 340.0, 260.0
"""Size of the charts in ``charts.svg``, the three of a line as wide as a page."""

_BESIDE = ("p99_ttft_ms", "p99_tpot_ms", "cost_usd_per_mtok")


def write_sweep(directory: Path, results: SweepResults, *, with_parquet: bool = False) -> None:
    """Write tables, figures and report; ``sweep.json`` comes last and marks the sweep as complete."""
    write_csv(directory / "results.csv", frame(results.rows))
    means = mean_rows(results)
    write_csv(directory / "means.csv", frame(means))
    if results.failures:
        write_csv(directory / "failed.csv", frame(results.failures))
    if with_parquet:
        _write_parquet(directory / "results.parquet", frame(results.rows))
        _write_parquet(directory / "means.parquet", frame(means))
    plots = list(results.plots if results.plots is not None else defaults(results, means)) if results.rows else []
    wanted = [name for plot in plots for name in (plot.x, *plot.results, plot.value) if name is not None]
    drawn = mean_rows(results, [*MEANS, *(name for name in wanted if name not in results.axes)])
    figures = write_sweep_figures(directory / "figures", results, drawn) if results.rows else []
    charts, keys = sweep_charts(results, drawn, plots), tuple(line_keys(results, means, plots).values())
    lines = [replace(chart, width=_SMALL[0], height=_SMALL[1]) for chart in charts if chart.name.startswith("lines")]
    if lines:
        heading = results.question or results.name
        write_text(directory / "figures" / "charts.svg", sheet(results.name, [(heading, lines)], keys))
    heats = (
        heat_maps(results, drawn, plot, f"heat-{number_}")
        for number_, plot in enumerate(plots)
        if plot.kind == "heatmap"
    )
    maps = tuple(one for own in heats for one in own)
    write_page(
        directory, _page(results, means, Part("Charts", figures=tuple(figures), charts=charts, maps=maps, keys=keys))
    )
    write_json(directory / "sweep.json", document(results, means))


def require_parquet() -> None:
    """Raise ``ConfigError`` if tables cannot be written as Parquet."""
    if find_spec("pyarrow") is None:
        raise ConfigError("--parquet needs pyarrow: pip install 'helixsim[parquet]'")


def _write_parquet(path: Path, table: pd.DataFrame) -> None:
    """Write a table; a column of numbers and text, such as an axis of both, is converted to text."""
    mixed = {
        name: table[name].map(lambda value: value if value is None else str(value))
        for name in table.columns
        if len({type(value) for value in table[name] if value is not None}) > 1
    }
    table.assign(**mixed).to_parquet(path, engine="pyarrow", index=False)


def best_table(
    results: SweepResults, means: Sequence[Mapping[str, Any]], beside: Sequence[str] = _BESIDE, shown: int = BEST_SHOWN
) -> PageTable:
    """Return a table of the best points with their settings; ``beside``: results shown beside the objective."""
    beside = [key for key in beside if key != results.objective]
    head = (
        *short_names(results.axes),
        "system",
        results.label(results.objective),
        *map(results.label, beside),
        "stable?",
        "model error, 80 %",
        "measured points",
    )
    rows = []
    for row in ranked(results, means)[:shown]:
        objective = results.objective
        rows.append(
            (
                *(str(plain_value(row[axis])) for axis in results.axes),
                str(row["system"]),
                number(row[objective]) + spread(row[f"{objective}.low"], row[f"{objective}.high"], number),
                *(number(row.get(key)) for key in beside),
                row["saturation"],
                _error_text(objective, row),
                f"{row['accuracy_points']}, {row['accuracy']}" if row.get("accuracy") else MISSING,
            )
        )
    return PageTable(head, tuple(rows))


def _error_text(objective: str, row: Mapping[str, Any]) -> str:
    """Return the band of the objective by the model error in percent, where it has one."""
    metric, is_inverse = error_of(objective) or ("", False)
    low, high = row.get(f"{metric}_band_low_ratio"), row.get(f"{metric}_band_high_ratio")
    if low is None or high is None:
        return MISSING
    low, high = (1 / high, 1 / low) if is_inverse else (low, high)
    return f"{100 * (low - 1):+.0f} to {100 * (high - 1):+.0f} %"


def _page(
    results: SweepResults,
    means: Sequence[Mapping[str, Any]],
    drawn: Part,
) -> Page:
    best = ranked(results, means)
    designs = len({row["point"] for row in means})
    answer = ["No point has results."]
    if best:
        names = zip(short_names(results.axes), results.axes, strict=True)
        settings = ", ".join(f"{name} = {plain_value(best[0][axis])}" for name, axis in names)
        word = "highest" if results.is_max else "lowest"
        answer = [
            f"The {word} {results.label(results.objective)}: {number(best[0][results.objective])}, by "
            f"{best[0]['system']} with {settings}."
        ]
    answer.append(
        f"{designs} combinations of {', '.join(results.axes)}, each under {len(results.seeds)} "
        f"seed{'s' * (len(results.seeds) > 1)}; all points of one seed see the same requests."
    )
    parts = [Part("Best points", table=best_table(results, means)), *([drawn] if drawn.figures else [])]
    if results.failures:
        rows = tuple(
            (str(one["point"]), str(one["seed"]), one["system"] or MISSING, one["message"]) for one in results.failures
        )
        parts.append(Part("Failures", table=PageTable(("point", "seed", "system", "error"), rows, is_text=True)))
    parts.append(
        Part(
            "Files",
            (
                "results.csv: a row per point, seed and system, with the run directory in column run; means.csv: means "
                "over seeds with 95 % intervals; figures/charts.svg: the line charts as one picture, light or dark.",
            ),
        )
    )
    return Page(results.name, results.question, tuple(answer), tuple(parts))
