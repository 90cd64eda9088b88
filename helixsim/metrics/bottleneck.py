"""Sentences on the bottleneck of a system: the min cut of its max-flow estimate, and the limit of the measured run."""

from __future__ import annotations

from collections.abc import Sequence

from helixsim.domain.cluster import Cluster
from helixsim.domain.flowplan import CutElement, FlowPlan
from helixsim.domain.request import FeedMode
from helixsim.domain.result import RunResult
from helixsim.metrics.faults import failed_in_window
from helixsim.metrics.legs import busiest_link
from helixsim.metrics.saturation import Saturation
from helixsim.metrics.utilisation import Utilisation
from helixsim.units import number

LIMITS = ("load", "compute", "memory", "concurrency", "faults", "network")
"""What limits a run: the offered load, the compute of a node, KV memory, the fixed number of requests in the system,
nodes or links that failed in the window, or delays of network and admission."""

_ABOVE_ESTIMATE = 1.05
_BUSY = 0.9
_KV_FULL = 0.75  # admission reserves blocks for expected output, so limiting memory is never completely used
_NAMES_SHOWN = 3


def cut_sentence(plan: FlowPlan, cluster: Cluster) -> str:
    """Return a sentence on the min cut, nodes grouped by node type [tokens/s]."""
    compute: dict[str, list[CutElement]] = {}
    nics: list[CutElement] = []
    links: list[CutElement] = []
    for element in plan.min_cut:
        if element.kind == "node":
            node_type = cluster.node(element.name).node_type if element.name in cluster.index else element.name
            compute.setdefault(node_type, []).append(element)
        else:
            (nics if element.kind == "nic" else links).append(element)
    parts = [
        _group(f"the compute of {_count(len(group), f'{node_type} node')}", group)
        for node_type, group in compute.items()
    ]
    if nics:
        parts.append(_group(_count(len(nics), "NIC"), nics))
    if links:
        parts.append(_group(_count(_number(links), "network link"), links))
    estimate = f"The max-flow estimate of {number(plan.max_flow_tokens_per_s)} prompt + output tokens/s"
    return f"{estimate} is limited by {_enumerate(parts)}." if parts else f"{estimate} has no min cut."


def bottleneck(
    run: RunResult, plan: FlowPlan, cluster: Cluster, used: Utilisation, attainment: float, verdict: Saturation
) -> tuple[str, str, str]:
    """Return sentences on min cut, measured share of the estimate and likely limit; its kind; the node it is, or "".

    Parameters
    ----------
    attainment
        Measured total throughput over the max-flow estimate; may exceed 1.
    """
    measured = f"Measured: {attainment:.0%} of it"
    if attainment > _ABOVE_ESTIMATE:
        measured += " (the estimate assumes smaller batches than fit into KV memory here)"
    kind, node, limit = _limit(run, used, verdict, cluster)
    return f"{cut_sentence(plan, cluster)} {measured}, limited by {limit}.", kind, node


def _limit(run: RunResult, used: Utilisation, verdict: Saturation, cluster: Cluster) -> tuple[str, str, str]:
    """Return the most likely limit of the measured throughput: its kind, its node, and its description."""
    if run.mode is FeedMode.OPEN and verdict is Saturation.STABLE:
        return "load", "", "the offered load"
    fullest, busiest = int(used.kv_peak.argmax()), int(used.busy_share.argmax())
    names = run.nodes.node_id

    def with_role(position: int) -> str:
        role = cluster.node(names[position]).role
        return names[position] if role == "both" else f"{names[position]} ({role})"

    link = None if run.transfers is None else busiest_link(run)
    if link is not None and link[1] >= _BUSY:
        return "network", "", f"the link {link[0]}, which carries KV caches {link[1]:.0%} of the time"
    busy = f"no node computes more than {used.busy_share[busiest]:.0%} of the time"
    if used.busy_share[busiest] >= _BUSY:
        loop = " with the fixed number of requests in the system" if run.mode is FeedMode.CLOSED_LOOP else ""
        text = f"{with_role(busiest)}, which computes {used.busy_share[busiest]:.0%} of the time{loop}"
        return "compute", names[busiest], text
    if used.kv_peak[fullest] >= _KV_FULL:
        text = (
            f"KV memory, which caps the requests in flight ({with_role(fullest)}: mean use "
            f"{used.kv_mean[fullest]:.0%}, peak {used.kv_peak[fullest]:.0%}; {busy})"
        )
        return "memory", names[fullest], text
    if run.mode is FeedMode.CLOSED_LOOP:
        return "concurrency", "", "the fixed number of requests in the system over the time each of them takes"
    if failed_in_window(run):
        return "faults", "", f"nodes or links that failed ({busy} in the whole window)"
    text = f"network delay and admission ({busy}, and peak KV memory use is {used.kv_peak[fullest]:.0%})"
    return "network", "", text


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number != 1 else ''}"


def _number(elements: Sequence[CutElement]) -> int:
    return sum(element.count for element in elements)


def _group(label: str, elements: Sequence[CutElement]) -> str:
    shown = elements[:_NAMES_SHOWN]
    names, hidden = ", ".join(element.name for element in shown), _number(elements) - len(shown)
    more = f" and {hidden} more" if hidden else ""
    return f"{label} ({names}{more}: {number(sum(element.capacity_tokens_per_s for element in elements))} tokens/s)"


def _enumerate(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}" if parts else ""
