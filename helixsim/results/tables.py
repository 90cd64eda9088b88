"""Tables of one simulated run, with units in the names of the columns.

Times are integer nanoseconds; the cell of an event that did not occur is empty.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from helixsim.domain.cluster import Deployment
from helixsim.domain.flowplan import FlowPlan
from helixsim.domain.result import RequestStatus, RunResult
from helixsim.domain.summary import Summary
from helixsim.jsonio import significant
from helixsim.metrics.error_cells import METRICS
from helixsim.metrics.model_error import model_error
from helixsim.metrics.ranking import follows_load
from helixsim.metrics.utilisation import utilisation
from helixsim.results.columns import Columns, joined, texts
from helixsim.results.files import csv_cell
from helixsim.results.placement_json import route_text
from helixsim.units import BITS_PER_BYTE

if TYPE_CHECKING:
    import pandas as pd


def summary_row(summary: Summary) -> dict[str, Any]:
    """Return the main figures of a run, units in the names."""
    served, load, flow, cluster, cost = (
        summary.throughput, summary.load, summary.flow, summary.cluster, summary.cost,
    )  # fmt: skip
    latencies = {"ttft": summary.ttft, "tpot": summary.tpot, "itl": summary.itl, "e2el": summary.e2el}
    return {
        "output_tokens_per_s": served.output_tokens_per_s,
        "total_tokens_per_s": served.total_tokens_per_s,
        "requests_per_s": served.requests_per_s,
        "goodput_per_s": served.goodput_per_s,
        "slo_attainment": served.slo_attainment,
        **{
            f"{metric}_{statistic}_s": getattr(latency, f"{statistic}_s")
            for metric, latency in latencies.items()
            for statistic in ("mean", "p50", "p95", "p99")
        },
        "arrived_per_s": load.arrived_per_s,
        "saturation": load.saturation,
        "max_flow_tokens_per_s": flow.max_flow_tokens_per_s,
        "kv_limited_tokens_per_s": flow.kv_limited_tokens_per_s,
        "mean_hops": flow.measured_mean_hops,
        "kv_mean_share": cluster.kv_mean,
        "kv_peak_share": cluster.kv_peak,
        "preemptions": summary.integrity.preemptions,
        "prefix_hit_share": summary.throughput.prefix_hit_rate,
        "usd_per_mtok": cost.usd_per_mtok,
        "energy_wh_per_mtok": cost.energy_wh_per_mtok,
    }


def per_user_and_gpu(summary: Summary) -> dict[str, float | None]:
    """Return output tokens/s that a user sees, and that a GPU delivers: the two axes of a Pareto chart of serving.

    A user sees the inverse of the mean TPOT. GPUs are all of the cluster, unused ones included.
    """
    tpot_s, rate, gpus = summary.tpot.mean_s, summary.throughput.output_tokens_per_s, summary.cluster.gpus
    return {
        "tokens_per_s_per_user": significant(1.0 / tpot_s) if tpot_s else None,
        "tokens_per_s_per_gpu": significant(rate / gpus) if gpus and rate is not None else None,
    }


def error_row(summary: Summary | None) -> dict[str, Any]:
    """Return the label of a system, the measured points behind it, and its bands: measured over predicted.

    Throughput that follows the load has no band.
    """
    error = None if summary is None else model_error(summary.setting)
    row: dict[str, Any] = {
        "accuracy": None if error is None else error.label,
        "accuracy_points": None if error is None else error.points,
    }
    for metric in METRICS:
        unknown = error is None or summary is None or (metric == "throughput" and follows_load(summary))
        low, high = (None, None) if unknown or error is None else error.band(metric)
        row |= {f"{metric}_band_low_ratio": low, f"{metric}_band_high_ratio": high}
    return row


def requests_frame(run: RunResult) -> pd.DataFrame:
    """Return the requests that arrived, in order of arrival; times [ns]."""
    import pandas as pd

    requests, texts = run.requests, _request_texts(run)
    columns: dict[str, Any] = {}
    for name in _request_columns(run):
        values = getattr(requests, name)
        columns[name] = (
            np.array(texts[name], dtype=object)[values] if name in texts
            else pd.Series(values, dtype="Int64").mask(values < 0) if name in _MAY_NOT_OCCUR
            else values
        )  # fmt: skip
    return pd.DataFrame(columns)


def requests_text(run: RunResult) -> Iterator[str]:
    """Yield the lines of the requests table as CSV, many at a time: their text takes many times the memory."""
    requests = run.requests
    texts = {
        name: np.array([csv_cell(text) for text in values], dtype=object)
        for name, values in _request_texts(run).items()
    }
    names = _request_columns(run)
    line = ",".join(["%s"] * len(names)) + "\n"
    yield ",".join(names) + "\n"
    for first in range(0, len(requests.request_id), _ROWS_AT_A_TIME):
        columns = []
        for name in names:
            values = getattr(requests, name)[first : first + _ROWS_AT_A_TIME]
            cells = (texts[name][values] if name in texts else values).tolist()
            if name in _MAY_NOT_OCCUR and values.min() < 0:
                cells = ["" if value < 0 else value for value in cells]
            columns.append(cells)
        yield "".join(map(line.__mod__, zip(*columns, strict=True)))


REQUEST_COLUMNS = (
    "request_id", "status", "arrival_ns", "admitted_ns", "first_token_ns", "finish_ns", "prompt_tokens",
    "output_tokens", "preemptions", "queue_ns", "compute_ns", "network_ns", "cached_tokens", "route", "slo_class",
)  # fmt: skip
_OF_LEGS = ("transfer_ns",)
"""Columns of systems that prefill and decode on different nodes."""
_OF_TIERS = ("load_ns", "host_tokens", "disk_tokens")
"""Columns of systems that keep KV blocks behind the GPUs."""
_MAY_NOT_OCCUR = ("admitted_ns", "first_token_ns", "finish_ns")
_ROWS_AT_A_TIME = 20_000


def _request_columns(run: RunResult) -> tuple[str, ...]:
    own = () if run.transfers is None else _OF_LEGS
    return (*REQUEST_COLUMNS, *own, *(() if run.offloading is None else _OF_TIERS))


def _request_texts(run: RunResult) -> dict[str, list[str]]:
    """Return the texts of columns that hold their indices; the last one is that of index -1."""
    return {
        "status": [status.name.lower() for status in RequestStatus],
        "route": [*map(route_text, run.routes), ""],
        "slo_class": [*run.classes, ""],
    }


def of_run(name: str, run: RunResult, plan: FlowPlan, fleet: Deployment) -> Columns:
    """Return one of the tables that all systems share a file of."""
    if name == "nodes":
        return _nodes(run, plan, fleet)
    if name == "links":
        return _links(run, fleet)
    return {"series": _series, "node_series": _node_series, "itl": _itl, "pools": _pools}[name](run)


def _nodes(run: RunResult, plan: FlowPlan, fleet: Deployment) -> Columns:
    """Return the nodes with layers: layer range, load, KV memory."""
    nodes = run.nodes
    used = utilisation(run, fleet)
    block_tokens = np.array([fleet.profile(node).block_tokens for node in nodes.node_id])
    return {
        "node": texts(nodes.node_id),
        "node_type": texts(nodes.node_type),
        "layer_start": nodes.start,
        "layer_end": nodes.end,
        "flow_tokens_per_s": np.array([plan.node_flow_tokens_per_s.get(node, 0.0) for node in nodes.node_id]),
        "capacity_tokens_per_s": np.array(
            [plan.node_capacity_tokens_per_s.get(node, np.nan) for node in nodes.node_id]
        ),
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


def _links(run: RunResult, fleet: Deployment) -> Columns:
    """Return the directed links with traffic: bytes, load, waiting times."""
    links = run.links
    run_ns = max(run.end_ns, 1)
    cluster = fleet.cluster
    return {
        "src": texts(links.src),
        "dst": texts(links.dst),
        "bandwidth_bps": np.array(
            [cluster.link(src, dst).bandwidth_bps for src, dst in zip(links.src, links.dst, strict=True)]
        ),
        "messages": links.messages,
        "bytes": links.bytes,
        "mean_bps": links.bytes * BITS_PER_BYTE / (run_ns / 1e9),
        "busy_share": links.busy_ns / run_ns,
        "mean_wait_ns": links.queue_ns / np.maximum(links.messages, 1),
    }


def _series(run: RunResult) -> Columns:
    """Return the time series of the cluster; all columns but ``waiting`` and ``running`` are cumulative."""
    series = run.series
    names = ("time_ns", "output_tokens", "prompt_tokens", "arrived", "finished", "waiting", "running")
    return {name: getattr(series, name) for name in names}


def _node_series(run: RunResult) -> Columns:
    """Return the time series of the nodes; ``busy_ns``, ``batches`` and ``decode_tokens`` are cumulative."""
    series, nodes = run.series, run.nodes
    samples = len(series.time_ns)
    return {
        "time_ns": np.repeat(series.time_ns, len(nodes.node_id)),
        "node": np.tile(texts(nodes.node_id), samples),
        "node_type": np.tile(texts(nodes.node_type), samples),
        "busy_ns": series.busy_ns.ravel(),
        "kv_used_share": series.kv_used.ravel(),
        "queue_length": series.queue_length.ravel(),
        "batches": series.batches.ravel(),
        "decode_tokens": series.decode_tokens.ravel(),
    }


def _itl(run: RunResult) -> Columns:
    """Return the histogram of inter-token latency."""
    gaps = run.gaps
    return {"gap_from_ns": gaps.value_ns, "gap_to_ns": gaps.value_ns + gaps.resolution_ns, "count": gaps.count}


def _pools(run: RunResult) -> Columns:
    """Return the replicas of each pool by state, from a time on until the next one of the pool."""
    pools = run.autoscaling.pools if run.autoscaling is not None else ()
    tables = [
        {
            "time_ns": one.time_ns,
            "node_type": texts([one.pool.name] * len(one.time_ns)),
            "serving": one.serving,
            "starting": one.starting,
            "draining": one.draining,
            "gpus": one.paid * one.pool.gpus,
            **({} if one.spot is None or one.wanted is None else {"spot": one.spot, "wanted": one.wanted}),
        }
        for one in pools
    ]
    return joined(tables)
