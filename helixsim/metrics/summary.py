"""All figures of a run, computed once: everything else reads them from ``domain.summary.Summary``.

Equal runs give equal figures; how long the computation took is kept apart (``timing``).
"""

from __future__ import annotations

import math
import sys
from typing import Any

from helixsim.domain.cluster import Deployment
from helixsim.domain.engine import IDEAL, EngineSpec
from helixsim.domain.figures import (
    ClassFigures,
    ClusterFigures,
    CostFigures,
    FlowFigures,
    IntegrityFigures,
    Limits,
    LoadFigures,
    ThroughputFigures,
    WindowFigures,
)
from helixsim.domain.flowplan import FlowPlan
from helixsim.domain.placement import Placement
from helixsim.domain.request import Slo
from helixsim.domain.result import RequestStatus, RunResult
from helixsim.domain.summary import Summary, rounded
from helixsim.metrics.autoscaling import autoscaling_figures, paid_shares, paid_usd_per_hour
from helixsim.metrics.bottleneck import bottleneck
from helixsim.metrics.energy_cost import (
    cost_usd_per_mtok,
    energy_wh_per_mtok,
    mean_power_w,
)
from helixsim.metrics.faults import fault_figures
from helixsim.metrics.latency import latencies, latency_samples
from helixsim.metrics.legs import disaggregation_figures
from helixsim.metrics.objectives import objective_figures
from helixsim.metrics.offloading import offload_figures
from helixsim.metrics.saturation import saturation
from helixsim.metrics.score import score_of
from helixsim.metrics.setting import setting_of
from helixsim.metrics.stationarity import stationarity
from helixsim.metrics.stats import histogram_percentile
from helixsim.metrics.throughput import (
    Throughput,
    attainment_interval,
    delivered_tokens,
    of_class,
    output_throughput_interval,
    throughput,
)
from helixsim.metrics.utilisation import Utilisation, utilisation
from helixsim.units import NS_PER_S


def summarise(
    run: RunResult,
    *,
    slo: Slo,
    fleet: Deployment,
    placement: Placement,
    plan: FlowPlan,
    mean_prompt_tokens: float,
    mean_output_tokens: float,
    offered_rps: float | None,
    kv_limited_tokens_per_s: float | None = None,
    engine: EngineSpec = IDEAL,
    unsupported: tuple[str, ...] = (),
    cost_first: bool = False,
) -> Summary:
    """Return the summary of one system.

    Parameters
    ----------
    mean_prompt_tokens, mean_output_tokens
        Mean lengths of the workload [tokens]; they convert the max-flow estimate to requests/s and output tokens/s.
    offered_rps
        Requests per second of the workload; None for closed loops.
    kv_limited_tokens_per_s
        KV-limited throughput estimate of the placement [prompt + output tokens/s]; None: not computed.
    engine, unsupported
        Serving engine that was simulated, and what of it the models do not represent.
    cost_first
        Whether the price decides before the latency when systems are ranked.
    """
    counts = throughput(run, slo)
    samples = latency_samples(run)
    used = utilisation(run, fleet)
    flow = _flow(run, counts, placement, plan, mean_prompt_tokens, mean_output_tokens, kv_limited_tokens_per_s)
    start_s, end_s = run.window_start_ns / NS_PER_S, run.window_end_ns / NS_PER_S
    return rounded(
        Summary(
            window=WindowFigures(start_s, end_s, warmup_s=start_s, duration_s=counts.duration_s),
            load=LoadFigures(
                feed=run.mode,
                seed=run.seed,
                stationarity=stationarity(run),
                saturation=saturation(run).value,
                offered_per_s=offered_rps,
                arrived_per_s=counts.rate(counts.arrived),
            ),
            throughput=_throughput(run, slo, counts),
            objectives=objective_figures(run, slo),
            **latencies(run, samples),
            tpot_excluded=samples.tpot_excluded,
            itl_max_s=histogram_percentile(run.gaps, 100) / NS_PER_S,
            flow=flow,
            cluster=_cluster(run, used, fleet, placement, plan, flow.attainment),
            cost=_cost(run, counts, used, fleet),
            integrity=_integrity(run),
            disaggregation=disaggregation_figures(run, used, fleet),
            kv_offloading=offload_figures(run, counts),
            faults=fault_figures(run),
            autoscaling=autoscaling_figures(run, used, fleet),
            classes={name: _class(of_class(run, name), slo.of(name)) for name in sorted(run.classes)},
            setting=setting_of(
                run,
                fleet,
                placement,
                engine,
                hops=_hops(run, plan),
                mean_prompt_tokens=mean_prompt_tokens,
                mean_output_tokens=mean_output_tokens,
                unsupported=unsupported,
            ),
            ranking=score_of(run, slo, fleet, placement, cost_first=cost_first).figures(),
        )
    )


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


def _throughput(run: RunResult, slo: Slo, counts: Throughput) -> ThroughputFigures:
    interval, attained = output_throughput_interval(run), attainment_interval(run, slo)
    return ThroughputFigures(
        completed=counts.completed,
        failed=counts.failed,
        prompt_tokens=counts.prompt_tokens,
        output_tokens=counts.output_tokens,
        requests_per_s=counts.rate(counts.completed),
        goodput_per_s=None if counts.good_requests is None else counts.rate(counts.good_requests),
        output_tokens_per_s=counts.rate(counts.output_tokens),
        total_tokens_per_s=counts.rate(counts.total_tokens),
        slo_attainment=counts.slo_attainment,
        undecided=counts.undecided if slo.is_stated else None,
        prefix_hit_tokens=counts.prefix_hit_tokens,
        prefix_hit_rate=counts.prefix_hit_rate,
        output_interval=None if interval is None else Limits(interval.low, interval.high),
        attainment_interval=None if attained is None else Limits(attained.low, min(1.0, attained.high)),
    )


def _class(run: RunResult, slo: Slo) -> ClassFigures:
    """Return the figures of a run with the requests of one class alone."""
    counts, found = throughput(run, slo), latencies(run, latency_samples(run))
    return ClassFigures(
        completed=counts.completed,
        failed=counts.failed,
        requests_per_s=counts.rate(counts.completed),
        goodput_per_s=None if counts.good_requests is None else counts.rate(counts.good_requests),
        slo_attainment=counts.slo_attainment,
        ttft=found["ttft"],
        tpot=found["tpot"],
        e2el=found["e2el"],
        output_tokens_per_s=counts.rate(delivered_tokens(run)),
    )


def _flow(
    run: RunResult,
    counts: Throughput,
    placement: Placement,
    plan: FlowPlan,
    mean_prompt_tokens: float,
    mean_output_tokens: float,
    kv_limited_tokens_per_s: float | None,
) -> FlowFigures:
    max_flow = plan.max_flow_tokens_per_s
    tokens = mean_prompt_tokens + mean_output_tokens
    total_per_s = counts.rate(counts.total_tokens)
    return FlowFigures(
        strategy=placement.strategy,
        placement_status=placement.status,
        max_flow_tokens_per_s=max_flow,
        upper_bound_tokens_per_s=placement.upper_bound_tokens_per_s,
        gap=placement.gap,
        max_flow_requests_per_s=max_flow / tokens if tokens else math.nan,
        max_flow_output_tokens_per_s=max_flow * mean_output_tokens / tokens if tokens else math.nan,
        attainment=total_per_s / max_flow if max_flow else math.nan,
        mean_hops=plan.mean_hops,
        max_hops=plan.max_hops,
        measured_mean_hops=_measured_hops(run),
        kv_limited_tokens_per_s=kv_limited_tokens_per_s,
        kv_limited_attainment=total_per_s / kv_limited_tokens_per_s if kv_limited_tokens_per_s else math.nan,
    )


def _measured_hops(run: RunResult) -> float:
    """Return the mean number of nodes of the requests with a route; NaN without any."""
    routed = run.requests.route[run.requests.route >= 0]
    hops = [len(route.hops) for route in run.routes]
    return sum(hops[index] for index in routed.tolist()) / len(routed) if len(routed) else math.nan


def _hops(run: RunResult, plan: FlowPlan) -> float:
    """Return the mean number of nodes of a request, the planned one if none was routed."""
    measured = _measured_hops(run)
    return plan.mean_hops if math.isnan(measured) else measured


def _cluster(
    run: RunResult, used: Utilisation, fleet: Deployment, placement: Placement, plan: FlowPlan, attainment: float | None
) -> ClusterFigures:
    reached = math.nan if attainment is None else attainment
    sentences, limited_by, limiting_node = bottleneck(run, plan, fleet.cluster, used, reached, saturation(run))
    return ClusterFigures(
        bottleneck=sentences,
        limited_by=limited_by,
        limiting_node=limiting_node,
        utilisation=used.by_node_type,
        kv_peak=float(used.kv_peak.max(initial=0.0)),
        kv_mean=float(used.kv_mean.mean()) if used.kv_mean.size else math.nan,
        kv_tokens={
            node_id: fleet.kv_blocks(node_id, held) * fleet.profile(node_id).block_tokens
            for node_id, held in placement.ranges.items()
        },
        queue_mean=float(used.queue_mean.sum()),
        gpus=sum(node.gpus for node in fleet.cluster.nodes),
    )


def _cost(run: RunResult, counts: Throughput, used: Utilisation, fleet: Deployment) -> CostFigures:
    output_per_s = counts.rate(counts.output_tokens)
    busy = dict(zip(run.nodes.node_id, used.busy_share.tolist(), strict=True))
    power_w, usd_per_hour = mean_power_w(fleet, busy, paid_shares(run, fleet)), paid_usd_per_hour(run, fleet)
    return CostFigures(
        usd_per_hour=usd_per_hour,
        usd_per_mtok=cost_usd_per_mtok(usd_per_hour, output_per_s),
        usd_per_total_mtok=cost_usd_per_mtok(usd_per_hour, counts.rate(counts.total_tokens)),
        power_w=power_w,
        energy_wh_per_mtok=energy_wh_per_mtok(power_w, output_per_s),
    )


def _integrity(run: RunResult) -> IntegrityFigures:
    status = run.requests.status
    conservation = {"arrived": len(status)}
    counts = {state: int((status == state).sum()) for state in RequestStatus}
    conservation |= {
        state.name.lower(): count for state, count in counts.items() if count or state is not RequestStatus.FAILED
    }
    return IntegrityFigures(
        preemptions=int(run.counters["preemptions"]),
        recomputed_tokens=int(run.counters["recomputed_tokens"]),
        rejected=int(run.counters["rejected"]),
        truncated_outputs=int(run.counters.get("truncated_outputs", 0)),
        conservation=conservation,
        invariants_broken=tuple(f"{check.name}: {check.detail}" for check in run.invariants if not check.held),
        simulated_s=run.end_ns / NS_PER_S,
        events=int(run.counters["events"]),
    )
