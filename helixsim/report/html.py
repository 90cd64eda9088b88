"""``report.html``: the self-contained report of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from helixsim.domain.result import RequestColumns
from helixsim.metrics.energy_cost import IDLE_POWER_SHARE
from helixsim.metrics.verdict_text import answer
from helixsim.report import whatif_rows
from helixsim.report.figures import write_figures
from helixsim.report.rows import LEGEND, comparison_sections, notes, window_sentence
from helixsim.report.selection import selection_notes
from helixsim.report.style import FigureFile
from helixsim.report.templating import inline, template
from helixsim.report.verdict_rows import objective_rows
from helixsim.results.files import read_json
from helixsim.results.runset import RunSet
from helixsim.writing import write_text

_FILES = (
    ("summary.json", "all numbers of this report"),
    ("requests/", "requests: times, tokens, route"),
    ("nodes.csv", "nodes: layers, utilisation, KV memory"),
    ("links.csv", "links: bytes, utilisation, waiting times"),
    ("series.csv", "time series of the cluster"),
    ("node_series.csv", "time series of the nodes"),
    ("itl.csv", "histogram of inter-token latency"),
    ("placements/", "placements, reusable with the strategy “fixed”"),
    ("figures/", "figures as SVG and PNG, with their data as CSV"),
)


def build_report(
    directory: Path,
    manifest: Mapping[str, Any] | None = None,
    requests: Mapping[str, RequestColumns] | None = None,
) -> Path:
    """Draw the figures of a run and write its ``report.html``; return the path of the latter.

    Parameters
    ----------
    directory
        A run directory with the files of ``results.runset``; ``config.resolved.yaml`` is included if it exists.
    manifest
        Contents of ``manifest.json`` for a run that writes it last; None: read the file if it exists. Its parts
        ``identity``, ``environment`` and ``assumptions`` are included.
    requests
        Requests of systems that are still in memory, as in the files of the directory.

    Raises
    ------
    DataError
        If a file of the run is missing or unreadable.
    """
    runs = RunSet.load(directory).with_requests(requests or {})
    manifest_path = directory / "manifest.json"
    if manifest is None:
        manifest = read_json(manifest_path) if manifest_path.exists() else {}
    config_path = directory / "config.resolved.yaml"
    config = config_path.read_text(encoding="utf-8") if config_path.exists() else ""
    figures = write_figures(runs, directory / "figures")
    path = directory / "report.html"
    write_text(path, render_html(runs, figures, manifest, config))
    return path


def render_html(runs: RunSet, figures: list[FigureFile], manifest: Mapping[str, Any], config: str) -> str:
    """Return the page as text."""
    shown = [(figure, inline(figure.name, figure.svg)) for figure in figures]
    return template("report.html.j2").render(
        runs=runs,
        answer=answer(runs.verdict),
        objectives=objective_rows(runs.verdict),
        systems=list(runs),
        changes=whatif_rows.changes(runs),
        outcomes=(whatif_rows.HEAD, *whatif_rows.rows(runs)),
        sections=comparison_sections(runs),
        notes=[*notes(runs), *selection_notes(runs)],
        window=window_sentence(runs),
        legend=LEGEND,
        figures=[pair for pair in shown if not pair[0].name.startswith("placement-")],
        placements=[pair for pair in shown if pair[0].name.startswith("placement-")],
        assumptions=[*_own_assumptions(), *manifest.get("assumptions", ())],
        config=config,
        manifest=list(_flat({key: manifest[key] for key in ("identity", "environment") if key in manifest})),
        files=_FILES,
    )


def _own_assumptions() -> list[str]:
    return [
        f"Energy: a node draws its TDP while it computes and {IDLE_POWER_SHARE:.0%} of it otherwise, unused nodes "
        "included.",
        "Cost: hourly price of every node, unused nodes included.",
    ]


def _flat(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in tree.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", str(value)))
    return rows
