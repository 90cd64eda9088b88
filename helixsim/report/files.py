"""What a run writes into its directory, apart from configuration and manifest.

``summary.json``, ``nodes.csv``, ``links.csv``, ``series.csv`` (cluster over time), ``node_series.csv`` (nodes over
time), ``itl.csv`` (histogram of gaps between tokens), ``requests/<system>.csv`` and ``placements/<system>.json``.
Nothing in them depends on the speed of the machine: equal runs leave equal bytes. Times are integer nanoseconds; an
empty cell means that the moment was never reached.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from helixsim.domain.cluster import Fleet
from helixsim.domain.flowplan import FlowPlan, Route
from helixsim.domain.placement import LayerRange, Placement
from helixsim.domain.request import Slo
from helixsim.domain.result import IntArray, RequestColumns, RequestStatus, RunResult
from helixsim.domain.summary import Summary
from helixsim.escape import csv_text
from helixsim.jsonio import json_values
from helixsim.metrics.summary import experiment_summary
from helixsim.metrics.utilisation import utilisation
from helixsim.units import BITS_PER_BYTE
from helixsim.writing import new_file, write_text

if TYPE_CHECKING:
    import pandas as pd

ROWS_AT_A_TIME = 50_000
"""Rows of a table of requests that are text at one time."""


@dataclass(frozen=True)
class SystemReport:
    """One system of an experiment, simulated; ``summary`` is what ``metrics.summary.summarise`` returned."""

    name: str
    summary: Summary
    run: RunResult
    placement: Placement
    plan: FlowPlan
    fleet: Fleet


def write_results(
    directory: Path,
    experiment: str,
    baseline: str,
    slo: Slo,
    systems: Sequence[SystemReport],
    whatif: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Write all result files and return the document of ``summary.json``.

    ``whatif``: name, changes and systems of each change of the experiment, as they enter the document.

    Raises
    ------
    KeyError
        If the baseline is not among the systems.
    """
    import pandas as pd

    document = experiment_summary(
        experiment,
        baseline,
        slo,
        {system.name: system.summary for system in systems},
        {system.name: system.run for system in systems},
    )
    if whatif:
        document["whatif"] = list(whatif)
    for folder in ("requests", "placements"):
        (directory / folder).mkdir(parents=True, exist_ok=True)
    write_json(directory / "summary.json", document)
    for system in systems:
        stem = file_stem(system.name)
        write_json(
            directory / "placements" / f"{stem}.json", placement_document(system.placement, system.plan, system.fleet)
        )
        _write_requests(directory / "requests" / f"{stem}.csv", system.run)
    for name, frame_of in _TABLES.items():
        frames = [frame_of(system) for system in systems]
        for system, frame in zip(systems, frames, strict=True):
            frame.insert(0, "system", system.name)
        write_csv(directory / f"{name}.csv", pd.concat(frames, ignore_index=True))
    return document


def file_stem(system: str) -> str:
    """Return the name of a system as it appears in file names."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", system)


def write_json(path: Path, document: Any) -> None:
    """Write indented JSON in UTF-8; NaN is refused (ValueError)."""
    write_text(path, json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    """Write a table; floats with nine significant digits, names such that no spreadsheet takes them for formulas."""
    with new_file(path) as file:
        _csv_safe(frame).to_csv(file, index=False, float_format="%.9g", lineterminator="\n")


def _csv_safe(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table whose texts, titles of columns too, are cells of CSV (``escape.csv_text``)."""
    columns = {}
    for name, column in frame.items():
        is_text = column.dtype.kind in "OTU"
        columns[csv_text(name)] = column.map(csv_text) if is_text else column
    return type(frame)(columns) if columns else frame


def _write_requests(path: Path, run: RunResult) -> None:
    """Write the table of requests piece by piece: as text it takes many times the memory of its columns."""
    count = len(run.requests.request_id)
    with new_file(path) as file:
        for first in range(0, max(count, 1), ROWS_AT_A_TIME):
            rows = slice(first, first + ROWS_AT_A_TIME)
            _csv_safe(requests_frame(run, rows)).to_csv(file, index=False, header=first == 0, lineterminator="\n")


def placement_document(placement: Placement, plan: FlowPlan, fleet: Fleet) -> dict[str, Any]:
    """Return a placement as JSON values, to look at and to be reloaded by the ``fixed`` strategy.

    ``layers`` gives each node of the fleet its half-open layer range or None. The time the search took is left out.
    """
    layers: dict[str, list[int] | None] = {}
    nodes = []
    for node in fleet.cluster.nodes:
        held = placement.ranges.get(node.id)
        layers[node.id] = None if held is None else [held.start, held.end]
        nodes.append(
            {
                "node": node.id,
                "kind": node.kind,
                "region": node.region,
                "kv_tokens": None
                if held is None
                else fleet.kv_blocks(node.id, held.layers) * fleet.profile(node.id).block_tokens,
                "flow_tokens_per_s": plan.node_flow_tokens_per_s.get(node.id, 0.0),
                "capacity_tokens_per_s": plan.node_capacity_tokens_per_s.get(node.id),
            }
        )
    document = {
        "strategy": placement.strategy,
        "status": placement.status,
        "num_layers": placement.num_layers,
        "objective_tokens_per_s": placement.objective_tokens_per_s,
        "upper_bound_tokens_per_s": placement.upper_bound_tokens_per_s,
        "gap": placement.gap,
        "max_flow_tokens_per_s": plan.max_flow_tokens_per_s,
        "mean_hops": plan.mean_hops,
        "max_hops": plan.max_hops,
        "replicas": [list(nodes) for nodes in plan.replicas],
        "partial_inference": placement.partial_inference,
        **({"pipelines": dict(placement.pipelines)} if placement.pipelines else {}),
        "layers": layers,
        "nodes": nodes,
        "min_cut": [
            {"kind": cut.kind, "name": cut.name, "capacity_tokens_per_s": cut.capacity_tokens_per_s}
            for cut in plan.min_cut
        ],
        "routes": [{"route": route_text(route), "flow_tokens_per_s": flow} for route, flow in plan.routes],
        "notes": dict(placement.notes),
        "vllm": _vllm_partitions(placement),
    }
    values: dict[str, Any] = json_values(document)
    return values


def _vllm_partitions(placement: Placement) -> list[dict[str, Any]]:
    """Return each chain of single nodes with its partition as vLLM reads it from VLLM_PP_LAYER_PARTITION.

    A node belongs to such a chain if no other node shares its layers or enters between them: vLLM's pipeline stages
    are not replicated one by one, so placements with nodes side by side have none.
    """
    lanes: dict[int | None, list[tuple[LayerRange, str]]] = {}
    for node, held in placement.ranges.items():
        lanes.setdefault(placement.pipelines.get(node), []).append((held, node))
    found = []
    for lane in lanes.values():
        lane.sort()
        ends = [0, *(held.end for held, _ in lane)]
        if ends[-1] == placement.num_layers and all(
            held.start == end for (held, _), end in zip(lane, ends, strict=False)
        ):
            partition = ",".join(str(held.layers) for held, _ in lane)
            found.append({"nodes": [node for _, node in lane], "VLLM_PP_LAYER_PARTITION": partition})
    return found


def route_text(route: Route) -> str:
    """Return for example ``a100-0[0:20] l4-3[20:40]``, layers half-open."""
    return " ".join(f"{node}[{held.start}:{held.end}]" for node, held in route.hops)


def requests_frame(run: RunResult, rows: slice) -> pd.DataFrame:
    """Return one row per request that arrived, in order of arrival; times [ns]."""
    import pandas as pd

    columns = run.requests
    requests = RequestColumns(**{column.name: getattr(columns, column.name)[rows] for column in fields(columns)})
    names = np.array([status.name.lower() for status in RequestStatus])
    routes = np.array([*map(route_text, run.routes), ""], dtype=object)
    return pd.DataFrame(
        {
            "request_id": requests.request_id,
            "status": names[requests.status],
            "arrival_ns": requests.arrival_ns,
            "admitted_ns": _reached(requests.admitted_ns),
            "first_token_ns": _reached(requests.first_token_ns),
            "finish_ns": _reached(requests.finish_ns),
            "prompt_tokens": requests.prompt_tokens,
            "output_tokens": requests.output_tokens,
            "preemptions": requests.preemptions,
            "queue_ns": requests.queue_ns,
            "compute_ns": requests.compute_ns,
            "network_ns": requests.network_ns,
            "route": routes[requests.route],
        }
    )


def _reached(times_ns: IntArray) -> pd.Series[int]:
    import pandas as pd

    return pd.Series(times_ns, dtype="Int64").mask(times_ns < 0)


def _nodes_frame(system: SystemReport) -> pd.DataFrame:
    import pandas as pd

    nodes, plan = system.run.nodes, system.plan
    used = utilisation(system.run, system.fleet)
    block_tokens = np.array([system.fleet.profile(node).block_tokens for node in nodes.node_id])
    return pd.DataFrame(
        {
            "node": nodes.node_id,
            "kind": nodes.kind,
            "layer_start": nodes.start,
            "layer_end": nodes.end,
            "flow_tokens_per_s": [plan.node_flow_tokens_per_s.get(node, 0.0) for node in nodes.node_id],
            "capacity_tokens_per_s": [plan.node_capacity_tokens_per_s.get(node, np.nan) for node in nodes.node_id],
            "busy_share": used.busy_share,
            "kv_tokens": nodes.kv_blocks * block_tokens,
            "kv_mean_share": used.kv_mean,
            "kv_peak_share": used.kv_peak,
            "queue_mean_requests": used.queue_mean,
            "batches": nodes.batches,
            "prompt_tokens": nodes.prompt_tokens,
            "decode_tokens": nodes.decode_tokens,
            "preemptions": nodes.preemptions,
        }
    )


def _links_frame(system: SystemReport) -> pd.DataFrame:
    import pandas as pd

    links = system.run.links
    run_ns = max(system.run.end_ns, 1)
    cluster = system.fleet.cluster
    return pd.DataFrame(
        {
            "src": links.src,
            "dst": links.dst,
            "bandwidth_bps": [
                cluster.link(src, dst).bandwidth_bps for src, dst in zip(links.src, links.dst, strict=True)
            ],
            "messages": links.messages,
            "bytes": links.bytes,
            "mean_bps": links.bytes * BITS_PER_BYTE / (run_ns / 1e9),
            "busy_share": links.busy_ns / run_ns,
            "mean_wait_ns": links.queue_ns / np.maximum(links.messages, 1),
        }
    )


def _series_frame(system: SystemReport) -> pd.DataFrame:
    import pandas as pd

    series = system.run.series
    names = ("time_ns", "output_tokens", "prompt_tokens", "arrived", "finished", "waiting", "running")
    return pd.DataFrame({name: getattr(series, name) for name in names})


def _node_series_frame(system: SystemReport) -> pd.DataFrame:
    import pandas as pd

    series, nodes = system.run.series, system.run.nodes
    samples = len(series.time_ns)
    return pd.DataFrame(
        {
            "time_ns": np.repeat(series.time_ns, len(nodes.node_id)),
            "node": np.tile(np.array(nodes.node_id, dtype=object), samples),
            "kind": np.tile(np.array(nodes.kind, dtype=object), samples),
            "busy_ns": series.busy_ns.ravel(),
            "kv_used_share": series.kv_used.ravel(),
            "queue_length": series.queue_length.ravel(),
        }
    )


def _itl_frame(system: SystemReport) -> pd.DataFrame:
    import pandas as pd

    gaps = system.run.gaps
    return pd.DataFrame(
        {"gap_from_ns": gaps.value_ns, "gap_to_ns": gaps.value_ns + gaps.resolution_ns, "count": gaps.count}
    )


_TABLES = {
    "nodes": _nodes_frame,
    "links": _links_frame,
    "series": _series_frame,
    "node_series": _node_series_frame,
    "itl": _itl_frame,
}
