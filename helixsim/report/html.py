"""``report.html``: the self-contained report of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from helixsim.domain.result import RequestColumns
from helixsim.metrics.energy_cost import IDLE_POWER_SHARE
from helixsim.metrics.verdict_text import answer, slo_text
from helixsim.report import whatif_rows
from helixsim.report.autoscaling_series import scaled
from helixsim.report.charts import Chart, sheet
from helixsim.report.classes import class_rows
from helixsim.report.fault_maps import span_maps
from helixsim.report.network_map import network_map
from helixsim.report.overview import overview
from helixsim.report.placement_view import placement_view
from helixsim.report.request_life import OF_EACH, lives, shown
from helixsim.report.rows import LEGEND, comparison_sections, notes, window_sentence
from helixsim.report.run_charts import chart_rows, kinds_of, latency_charts, node_type_charts, time_charts
from helixsim.report.selection import selection_notes
from helixsim.report.templating import template
from helixsim.report.verdict_rows import LATE, late_note, objective_rows
from helixsim.report.waterfall import waterfall
from helixsim.results.columns import of_rows
from helixsim.results.files import read_json, write_csv
from helixsim.results.runset import RunSet
from helixsim.units import percent
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
    ("figures/", "charts as SVG, with their data as CSV"),
)

_FILES_OF_POOLS = (("pools.csv", "replicas over time, where their number follows the load"),)
_OF_POOLS = ("Pools with autoscaling: replicas cost and draw power from the beginning of their start until removed.",)


def build_report(
    directory: Path,
    manifest: Mapping[str, Any] | None = None,
    requests: Mapping[str, RequestColumns] | None = None,
) -> Path:
    """Write ``report.html`` of a run, and its charts as files; return the path of the former.

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
    charts = Charts(latency_charts(runs), time_charts(runs), node_type_charts(runs))
    path = directory / "report.html"
    write_text(path, render_html(runs, charts, manifest, config))
    _write_charts(directory / "figures", runs, charts)
    return path


class Charts(NamedTuple):
    """The charts of a run."""

    latency: Sequence[Chart]
    time: Sequence[Chart]
    node_types: Sequence[Chart]


def render_html(runs: RunSet, charts: Charts, manifest: Mapping[str, Any], config: str) -> str:
    """Return the page as text."""
    kinds = node_type_kinds(runs)
    waterfalls = [(name, waterfall(run)) for name, run in runs.items()]
    return template("report.html.j2", shown=shown, percent=percent).render(
        runs=runs,
        answer=answer(runs.verdict),
        slo=slo_text(runs.slo),
        objectives=objective_rows(runs.verdict),
        system_kinds=kinds_of(list(runs)),
        node_kinds=kinds,
        overview=overview(runs),
        classes=class_rows(runs),
        late=LATE,
        late_note=late_note(runs),
        changes=whatif_rows.changes(runs),
        outcomes=(whatif_rows.HEAD, *whatif_rows.rows(runs)),
        sections=comparison_sections(runs),
        notes=[*notes(runs), *selection_notes(runs)],
        window=window_sentence(runs),
        legend_text=LEGEND,
        charts=charts,
        waterfalls=waterfalls,
        meanings={step.label: step.about for _, steps in waterfalls for step in steps},
        placements=[placement_view(run, kinds) for run in runs.values()],
        maps=[(whole, span_maps(run, whole)) for run in runs.values() for whole in [network_map(run, kinds)]],
        left_out=[
            kind
            for kind, part in (("transfer", "disaggregation"), ("load", "kv_offloading"))
            if all(getattr(run.summary, part) is None for run in runs.values())
        ],
        lives=[(name, lives(run)) for name, run in runs.items()],
        of_each=OF_EACH,
        assumptions=[*_own_assumptions(), *_OF_POOLS[: bool(scaled(runs))], *manifest.get("assumptions", ())],
        config=config,
        identity=manifest.get("identity", {}),
        manifest=list(_flat({key: manifest[key] for key in ("identity", "environment") if key in manifest})),
        files=[*_FILES, *_FILES_OF_POOLS[: bool(scaled(runs))]],
    )


def node_type_kinds(runs: RunSet) -> dict[str, str]:
    """Return the CSS class of each node type, the same in the whole report."""
    names = dict.fromkeys(node["node_type"] for run in runs.values() for node in run.placement_document["nodes"])
    return kinds_of(list(names), "n")


def _write_charts(directory: Path, runs: RunSet, charts: Charts) -> None:
    """Write the charts as SVG files, with their data as CSV."""
    directory.mkdir(parents=True, exist_ok=True)
    systems = tuple((kind, name) for name, kind in kinds_of(list(runs)).items())
    types = tuple((kind, name) for name, kind in node_type_kinds(runs).items())
    for name, title, shown_charts, keys in (
        ("latency", "Latency", charts.latency, systems),
        ("over_time", "Over time", charts.time, systems),
        ("utilisation", "Utilisation by node type", charts.node_types, types),
    ):
        write_text(directory / f"{name}.svg", sheet(title, [(title, shown_charts)], keys))
        write_csv(directory / f"{name}.csv", of_rows([row for one in shown_charts for row in chart_rows(one)]))


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
