"""What limits a system, in words: the min cut of its flow bound, and what keeps it away from that bound."""

from __future__ import annotations

from collections.abc import Sequence

from helixsim.domain.cluster import Cluster
from helixsim.domain.flowplan import CutElement, FlowPlan
from helixsim.domain.request import FeedMode
from helixsim.domain.result import RunResult
from helixsim.metrics.saturation import Saturation
from helixsim.metrics.utilisation import Utilisation

_ABOVE_BOUND = 1.05
_BUSY = 0.9
_KV_FULL = 0.75  # admission keeps a reserve for outputs still to come, so memory that limits is never quite full
_NAMES_SHOWN = 3


def cut_in_words(plan: FlowPlan, cluster: Cluster) -> str:
    """Return a sentence on the min cut, nodes grouped by GPU type [tokens/s]."""
    compute: dict[str, list[CutElement]] = {}
    nics: list[CutElement] = []
    links: list[CutElement] = []
    for element in plan.min_cut:
        if element.kind == "node":
            kind = cluster.node(element.name).kind if element.name in cluster.index else element.name
            compute.setdefault(kind, []).append(element)
        else:
            (nics if element.kind == "nic" else links).append(element)
    parts = [_group(f"the compute of {_count(len(group), f'{kind} node')}", group) for kind, group in compute.items()]
    if nics:
        parts.append(_group(_count(len(nics), "network card"), nics))
    if links:
        parts.append(_group(_count(len(links), "network link"), links))
    limit = f"The flow bound of {plan.max_flow_tokens_per_s:.4g} prompt + output tokens/s"
    return f"{limit} is set by {_enumerate(parts)}." if parts else f"{limit} has no cut to name."


def what_binds(
    run: RunResult, plan: FlowPlan, cluster: Cluster, used: Utilisation, attainment: float, verdict: Saturation
) -> str:
    """Return sentences: the min cut, how much of it the run reached, and what most likely limits the run.

    ``attainment`` is the measured total throughput over the flow bound, 0..1.
    """
    reached = f"The run reaches {attainment:.0%} of it"
    if attainment > _ABOVE_BOUND:
        reached += " (more than all: its node capacities assume smaller batches than KV memory allowed here)"
    return f"{cut_in_words(plan, cluster)} {reached}: {_limit(run, used, verdict)}."


def _limit(run: RunResult, used: Utilisation, verdict: Saturation) -> str:
    """Return what most likely keeps the run from serving more, judged by what was measured."""
    if run.mode is FeedMode.OPEN and verdict is Saturation.STABLE:
        return "the load offers no more"
    fullest, busiest = int(used.kv_peak.argmax()), int(used.busy_share.argmax())
    names = run.nodes.node_id
    if used.busy_share[busiest] >= _BUSY:
        more = ", with the few requests in the system" if run.mode is FeedMode.CLOSED_LOOP else ""
        return f"{names[busiest]} computes {used.busy_share[busiest]:.0%} of the time{more}"
    if used.kv_peak[fullest] >= _KV_FULL:
        return (
            f"KV memory caps the requests in flight ({names[fullest]}: {used.kv_mean[fullest]:.0%} in use on average, "
            f"{used.kv_peak[fullest]:.0%} at the peak), and no node computes more than {used.busy_share[busiest]:.0%} "
            "of the time"
        )
    if run.mode is FeedMode.CLOSED_LOOP:
        return "the fixed number of requests in the system, divided by the time each takes, allows no more"
    return (
        f"no node computes more than {used.busy_share[busiest]:.0%} of the time and KV memory is at most "
        f"{used.kv_peak[fullest]:.0%} full, so network delay and the limit on admissions hold it back"
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number != 1 else ''}"


def _group(what: str, elements: Sequence[CutElement]) -> str:
    names = ", ".join(element.name for element in elements[:_NAMES_SHOWN])
    more = f" and {len(elements) - _NAMES_SHOWN} more" if len(elements) > _NAMES_SHOWN else ""
    return f"{what} ({names}{more}: {sum(element.capacity_tokens_per_s for element in elements):.4g} tokens/s)"


def _enumerate(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}" if parts else ""
