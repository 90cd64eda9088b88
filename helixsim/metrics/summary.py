"""All numbers of a run as plain JSON values.

The top level of a system carries the names of ``vllm bench serve``, so its tools can read it; what only helixsim
knows is under ``helixsim``. Two equal runs give equal bytes: floats are rounded to nine significant digits, numbers
that do not exist are None, and how long the computation took is kept apart (``timing``).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any

from helixsim.domain.cluster import Fleet
from helixsim.domain.flowplan import FlowPlan
from helixsim.domain.placement import Placement
from helixsim.domain.request import Slo
from helixsim.domain.result import RequestStatus, RunResult
from helixsim.metrics.binding import what_binds
from helixsim.metrics.compare import paired, ratio_intervals, ratios
from helixsim.metrics.energy_cost import (
    IDLE_POWER_SHARE,
    cost_usd_per_mtok,
    energy_wh_per_mtok,
    fleet_cost_usd_per_hour,
    mean_power_w,
)
from helixsim.metrics.latency import LatencySamples, latency_samples, latency_summary
from helixsim.metrics.saturation import saturation
from helixsim.metrics.stats import CONFIDENCE, Interval, batch_means, interval_of_batches
from helixsim.metrics.steady import steady_verdict
from helixsim.metrics.throughput import Throughput, output_throughput_interval, throughput
from helixsim.metrics.utilisation import Utilisation, utilisation
from helixsim.units import NS_PER_MS, NS_PER_S

SCHEMA = 1
_DIGITS = 9


def summarise(
    run: RunResult,
    *,
    slo: Slo,
    fleet: Fleet,
    placement: Placement,
    plan: FlowPlan,
    mean_prompt_tokens: float,
    mean_output_tokens: float,
    offered_rps: float | None,
    operating_tokens_per_s: float | None = None,
) -> dict[str, Any]:
    """Return the summary of one system.

    Parameters
    ----------
    mean_prompt_tokens, mean_output_tokens
        Of the workload [tokens]; they split the flow bound, which counts both, into requests/s and output tokens/s.
    offered_rps
        Requests per second of the workload; None for closed loops.
    operating_tokens_per_s
        Prompt and output tokens/s at the placement's operating point; None: not worked out.
    """
    counts = throughput(run, slo)
    samples = latency_samples(run)
    used = utilisation(run, fleet)
    summary = {
        "duration": counts.duration_s,
        "completed": counts.completed,
        "failed": counts.failed,
        "total_input_tokens": counts.prompt_tokens,
        "total_output_tokens": counts.output_tokens,
        "request_throughput": counts.rate(counts.completed),
        "request_goodput": None if counts.good_requests is None else counts.rate(counts.good_requests),
        "output_throughput": counts.rate(counts.output_tokens),
        "total_token_throughput": counts.rate(counts.prompt_tokens + counts.output_tokens),
        **latency_summary(run, samples),
        "helixsim": {
            **_measurement(run, counts, samples, slo, offered_rps),
            **_flow(run, counts, placement, plan, mean_prompt_tokens, mean_output_tokens),
            "operating_tokens_per_s": operating_tokens_per_s,
            "operating_attainment": counts.rate(counts.prompt_tokens + counts.output_tokens) / operating_tokens_per_s
            if operating_tokens_per_s
            else math.nan,
            **_cluster(run, counts, used, fleet, placement, plan),
            **_integrity(run),
        },
    }
    rounded: dict[str, Any] = json_values(summary)
    return rounded


def timing(run: RunResult, placement: Placement) -> dict[str, Any]:
    """Return what differs between equal runs: ``placement_seconds cpu_seconds wall_seconds`` and ``peak_rss_bytes``.

    The peak memory is that of this process so far; None on systems that do not tell (Windows).
    """
    try:
        import resource
    except ImportError:
        peak_rss_bytes = None
    else:
        unit_bytes = 1 if sys.platform == "darwin" else 1024
        peak_rss_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit_bytes
    return {
        "placement_seconds": placement.solve_s,
        "cpu_seconds": run.cpu_s,
        "wall_seconds": run.wall_s,
        "peak_rss_bytes": peak_rss_bytes,
    }


def experiment_summary(
    experiment: str, baseline: str, slo: Slo, summaries: Mapping[str, dict[str, Any]], runs: Mapping[str, RunResult]
) -> dict[str, Any]:
    """Return the document of ``summary.json``: all systems, each with its ratios to the baseline.

    Raises
    ------
    KeyError
        If the baseline is not among the systems.
    """
    base = summaries[baseline]
    systems = {}
    for name, summary in summaries.items():
        own = {
            "ratio_to_baseline": ratios(summary, base),
            "ratio_to_baseline_interval": ratio_intervals(summary, base, runs[name], runs[baseline]),
            "paired_with_baseline": paired(runs[name], runs[baseline]),
        }
        systems[name] = {**summary, "helixsim": {**summary["helixsim"], **json_values(own)}}
    return {
        "schema": SCHEMA,
        "experiment": experiment,
        "baseline": baseline,
        "slo": {"ttft_s": slo.ttft_s, "tpot_s": slo.tpot_s, "e2el_s": slo.e2el_s},
        "confidence_level": CONFIDENCE,
        "idle_power_share": IDLE_POWER_SHARE,
        "systems": systems,
    }


def json_values(value: Any) -> Any:
    """Return a JSON tree with floats rounded to nine significant digits and NaN or infinity turned into None."""
    if isinstance(value, Mapping):
        return {str(key): json_values(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_values(item) for item in value]
    if hasattr(value, "tolist"):
        return json_values(value.tolist())
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
    return value


def _measurement(
    run: RunResult, counts: Throughput, samples: LatencySamples, slo: Slo, offered_rps: float | None
) -> dict[str, Any]:
    confidence = {
        "output_throughput": output_throughput_interval(run),
        "mean_ttft_ms": interval_of_batches(batch_means(samples.ttft_ns / NS_PER_MS)),
        "mean_tpot_ms": interval_of_batches(batch_means(samples.tpot_ns / NS_PER_MS)),
        "mean_e2el_ms": interval_of_batches(batch_means(samples.e2el_ns / NS_PER_MS)),
    }
    return {
        "feed": run.mode.value,
        "seed": run.seed,
        "window": {
            "start_s": run.window_start_ns / NS_PER_S,
            "end_s": run.window_end_ns / NS_PER_S,
            "warmup_s": run.window_start_ns / NS_PER_S,
        },
        "steady": steady_verdict(run),
        "saturation": saturation(run).value,
        "offered_rate": offered_rps,
        "arrival_rate": counts.rate(counts.arrived),
        "slo_attainment": counts.slo_attainment,
        "tpot_excluded": samples.tpot_excluded,
        "confidence": {name: _limits(interval) for name, interval in confidence.items() if interval is not None},
    }


def _limits(interval: Interval) -> list[float]:
    return [interval.low, interval.high]


def _flow(
    run: RunResult,
    counts: Throughput,
    placement: Placement,
    plan: FlowPlan,
    mean_prompt_tokens: float,
    mean_output_tokens: float,
) -> dict[str, Any]:
    max_flow = plan.max_flow_tokens_per_s
    tokens_per_request = mean_prompt_tokens + mean_output_tokens
    routed = run.requests.route[run.requests.route >= 0]
    hops = [len(route.hops) for route in run.routes]
    return {
        "strategy": placement.strategy,
        "placement_status": placement.status,
        "max_flow_tokens_per_s": max_flow,
        "upper_bound_tokens_per_s": placement.upper_bound_tokens_per_s,
        "gap": placement.gap,
        "max_flow_requests_per_s": max_flow / tokens_per_request if tokens_per_request else math.nan,
        "max_flow_output_tokens_per_s": max_flow * mean_output_tokens / tokens_per_request
        if tokens_per_request
        else math.nan,
        "flow_attainment": counts.rate(counts.prompt_tokens + counts.output_tokens) / max_flow
        if max_flow
        else math.nan,
        "mean_hops": plan.mean_hops,
        "max_hops": plan.max_hops,
        "measured_mean_hops": sum(hops[index] for index in routed.tolist()) / len(routed) if len(routed) else math.nan,
    }


def _cluster(
    run: RunResult, counts: Throughput, used: Utilisation, fleet: Fleet, placement: Placement, plan: FlowPlan
) -> dict[str, Any]:
    output_per_s = counts.rate(counts.output_tokens)
    total_per_s = counts.rate(counts.prompt_tokens + counts.output_tokens)
    busy_share = dict(zip(run.nodes.node_id, used.busy_share.tolist(), strict=True))
    power_w = mean_power_w(fleet, busy_share)
    attainment = total_per_s / plan.max_flow_tokens_per_s if plan.max_flow_tokens_per_s else math.nan
    return {
        "what_binds": what_binds(run, plan, fleet.cluster, used, attainment, saturation(run)),
        "utilisation": used.by_kind,
        "kv_peak": float(used.kv_peak.max(initial=0.0)),
        "kv_mean": float(used.kv_mean.mean()) if used.kv_mean.size else math.nan,
        "kv_tokens_per_node": {
            node_id: fleet.kv_blocks(node_id, held.layers) * fleet.profile(node_id).block_tokens
            for node_id, held in placement.ranges.items()
        },
        "queue_mean": float(used.queue_mean.sum()),
        "cost_usd_per_hour": fleet_cost_usd_per_hour(fleet),
        "cost_usd_per_mtok": cost_usd_per_mtok(fleet, output_per_s),
        "cost_usd_per_total_mtok": cost_usd_per_mtok(fleet, total_per_s),
        "power_w": power_w,
        "energy_wh_per_mtok": energy_wh_per_mtok(power_w, output_per_s),
    }


def _integrity(run: RunResult) -> dict[str, Any]:
    status = run.requests.status
    conservation = {"arrived": len(status)}
    conservation |= {state.name.lower(): int((status == state).sum()) for state in RequestStatus}
    return {
        "preemptions": int(run.counters["preemptions"]),
        "rejected": int(run.counters["rejected"]),
        "truncated_outputs": int(run.counters.get("truncated_outputs", 0)),
        "conservation": conservation,
        "invariants_broken": [f"{check.name}: {check.detail}" for check in run.invariants if not check.held],
        "sim_seconds": run.end_ns / NS_PER_S,
        "events": int(run.counters["events"]),
    }
