"""``report.html``: one page that explains a run, with every figure inside and nothing fetched from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from helixsim.report import whatif_rows
from helixsim.report.figures import FigureFile, write_figures
from helixsim.report.rows import LEGEND, comparison_sections, notes, number, seconds, window_sentence
from helixsim.report.rundata import RunData, load_run, read_json
from helixsim.report.templating import inline, template
from helixsim.writing import write_text

_FILES = (
    ("summary.json", "all numbers of this page"),
    ("requests/", "every request: times, tokens, route"),
    ("nodes.csv", "nodes: layers, load, KV memory"),
    ("links.csv", "links: bytes, load, waits"),
    ("series.csv", "the cluster over time"),
    ("node_series.csv", "the nodes over time"),
    ("itl.csv", "histogram of the gaps between tokens"),
    ("placements/", "the placements, reusable with the strategy “fixed”"),
    ("figures/", "the figures as SVG and PNG, each with its data as CSV"),
)


def build_report(directory: Path, manifest: Mapping[str, Any] | None = None) -> Path:
    """Draw the figures of a run and write its ``report.html``; return the path of the latter.

    Parameters
    ----------
    directory
        A run directory with the files of ``report.files``; ``config.resolved.yaml`` is shown if it is there.
    manifest
        What ``manifest.json`` will hold, for a run that writes it last; None: read it if it is there. Its parts
        ``identity``, ``environment`` and ``assumptions`` are shown.

    Raises
    ------
    DataError
        If a file of the run is missing or unreadable.
    """
    data = load_run(directory)
    manifest_path = directory / "manifest.json"
    if manifest is None:
        manifest = read_json(manifest_path) if manifest_path.exists() else {}
    config_path = directory / "config.resolved.yaml"
    config = config_path.read_text(encoding="utf-8") if config_path.exists() else ""
    figures = write_figures(data, directory / "figures")
    path = directory / "report.html"
    write_text(path, render_html(data, figures, manifest, config))
    return path


def render_html(data: RunData, figures: list[FigureFile], manifest: Mapping[str, Any], config: str) -> str:
    """Return the page as text."""
    document = data.document
    shown = [(figure, inline(figure.name, figure.svg)) for figure in figures]
    return template("report.html.j2").render(
        document=document,
        headline=headline(document),
        systems=list(data.systems),
        changes=whatif_rows.changes(document),
        outcomes=(whatif_rows.HEAD, *whatif_rows.rows(document)),
        sections=comparison_sections(document),
        notes=notes(document),
        window=window_sentence(document),
        legend=LEGEND,
        figures=[pair for pair in shown if not pair[0].name.startswith("placement-")],
        placements=[pair for pair in shown if pair[0].name.startswith("placement-")],
        assumptions=[*_own_assumptions(document), *manifest.get("assumptions", ())],
        config=config,
        manifest=list(_flat({key: manifest[key] for key in ("identity", "environment") if key in manifest})),
        files=_FILES,
    )


def headline(document: Mapping[str, Any]) -> str:
    """Return the outcome of the experiment in one or two sentences."""
    systems, baseline = document["systems"], document["baseline"]
    best = max(systems, key=lambda name: systems[name]["output_throughput"] or 0.0)
    summary = systems[best]
    first = (
        f"{best} delivers {number(summary['output_throughput'])} output tokens/s"
        f" with a median time to first token of {seconds(summary['median_ttft_ms'])} s"
        f" and {number(summary['median_tpot_ms'])} ms per further token"
    )
    if len(systems) == 1:
        return f"{first}."
    if best == baseline:
        return f"{first}; no other system delivers more than this baseline."
    own = summary["helixsim"]
    ratio = own["ratio_to_baseline"]["output_throughput"]
    low, high = own["ratio_to_baseline_interval"].get("output_throughput", (None, None))
    if ratio is None:
        return f"{first}; the baseline {baseline} delivers none."
    if low is None:
        return f"{first}: {ratio:.2f} times the baseline {baseline}."
    if low <= 1.0:
        return (
            f"{first}. That is {ratio:.2f} times the baseline {baseline}, within the uncertainty of this run "
            f"({low:.2f} to {high:.2f}): throughput does not tell the two apart, latency and cost may."
        )
    return f"{first}: {ratio:.2f} times the baseline {baseline} (95 % range {low:.2f} to {high:.2f})."


def _own_assumptions(document: Mapping[str, Any]) -> list[str]:
    idle = document["idle_power_share"]
    return [
        f"Energy: a node draws its full TDP while it computes and {idle:.0%} of it otherwise, unused nodes included.",
        "Cost: every node of the fleet is paid for by the hour, unused nodes included.",
    ]


def _flat(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in tree.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", str(value)))
    return rows
