"""The tables of ``reproduce``, as text or Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from helixsim.papers.helix.cells import METRICS
from helixsim.papers.helix.engine_fit import EngineFit
from helixsim.papers.helix.fidelity import CellResult, summary

_TITLES = {"throughput": "decode tokens/s", "ttft": "mean TTFT, s", "step": "mean decode step, s"}
_FORMATS = {"throughput": "{:.1f}", "ttft": "{:.2f}", "step": "{:.3f}"}
_NONE = "–"


def fidelity_text(results: Sequence[CellResult], *, markdown: bool = False) -> str:
    """Return one table per metric, with the summary below."""
    blocks = []
    for metric in METRICS:
        header = ("cell", "measured", "helixsim", "± one run", "error", "paper's simulator", "error")
        rows = [
            (
                result.cell.name + ("" if result.cell.is_fitted else " *"),
                _figure(result.cell.measured.get(metric), metric),
                _figure(result.simulated.get(metric), metric),
                _size(result.spread.get(metric)),
                _share(result.error(metric)),
                _figure(result.cell.paper.get(metric), metric),
                _share(result.paper_error(metric)),
            )
            for result in results
            if result.cell.measured.get(metric) is not None
        ]
        if rows:
            blocks.append(f"{_TITLES[metric]}\n{'' if not markdown else chr(10)}{text_table(header, rows, markdown)}")
    columns = (
        *("metric", "cells", "median error", "worst", "cell", "± one run: median"),
        *("paper: cells", "median", "ours there", "worse in"),
    )
    lines = []
    for metric, said in summary(results).items():
        if said["cells"]:
            lines.append(
                (
                    _TITLES[metric],
                    str(said["cells"]),
                    _size(said["median"]),
                    _size(said["worst"]),
                    str(said["worst_cell"]),
                    _size(said["median_spread"]),
                    str(said["paper_cells"]),
                    _size(said["paper_median"]),
                    _size(said["median_where_paper"]),
                    ", ".join(said["worse_than_paper"]) or _NONE,
                )
            )
    blocks.append(f"summary\n{'' if not markdown else chr(10)}{text_table(columns, lines, markdown)}")
    blocks.append("* not used in the fit of the engine's overheads")
    return "\n\n".join(blocks)


def fit_text(fit: EngineFit) -> str:
    """Return the fitted overheads and the errors with and without each group of cells."""
    lines = [
        f"{key}: {seconds * 1e3:.3g} ms" + ("  (at the edge of the values tried)" if key in fit.at_edge else "")
        for key, seconds in fit.overheads_s.items()
    ]
    lines.append(f"mean absolute logarithm of simulated over measured: {fit.loss:.4f}; {fit.tried} points tried")
    header = ("left out", *fit.overheads_s, "cells", *(f"{_TITLES[metric]}: median" for metric in METRICS))
    rows = [
        (
            held.name,
            *(f"{seconds * 1e3:.3g} ms" for seconds in held.overheads_s.values()),
            str(len(held.results)),
            *(_size(summary(held.results)[metric]["median"]) for metric in METRICS),
        )
        for held in fit.held_out
    ]
    return "\n".join(lines) + "\n\nerror of the cells left out of the fit\n" + text_table(header, rows, markdown=False)


def _figure(value: float | None, metric: str) -> str:
    return _NONE if value is None else _FORMATS[metric].format(value)


def _share(error: float | None) -> str:
    return _NONE if error is None else f"{error:+.1%}"


def _size(error: float | None) -> str:
    return _NONE if error is None else f"{error:.1%}"


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]], markdown: bool = False) -> str:
    """Return a table in plain text or Markdown."""
    if markdown:
        lines = [header, ["---"] * len(header), *rows]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (header, *rows)
    )
