"""Prefill and decode as two commodities on one graph: the requests/s that nodes with roles serve, as a linear program.

Helix's max-flow (ASPLOS'25, section 4.2) has one commodity, tokens, and one capacity for each node. Here prompts and
decodes flow by themselves, each through all layers, on the nodes that serve them, and KV caches are a transport problem
between the two. All are in requests/s at mean lengths, and their value ``r`` is the largest that meets

- time: ``p a + d b <= 1`` on a node that computes ``p`` prompts/s and decodes ``d`` requests/s, where ``a`` and ``b``
  are the times that one of each takes; a node with one role has one term,
- KV memory, by Little's law: arrivals times the time that a request stays, of prompts and of decodes, fit into it,
- an objective for the time per token, which a node that does both meets with what prompts leave of its time,
- links and NICs: activations of prompts and of decodes, and KV caches at the efficiency of transfers,
- transport, for each range of layers that no node divides: every node sends what it has computed of them to nodes that
  hold them and decode, and these get what they decode. What stays on a node needs no link.

Definitions and laws: docs/disaggregation.md.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from helixsim import solver
from helixsim.domain.cluster import TOKEN_ID_BYTES, Deployment
from helixsim.domain.disaggregation import KvTransfer
from helixsim.domain.flowplan import COORDINATOR_CLASS
from helixsim.domain.placement import Placement
from helixsim.flow.phase_graph import ZERO, Columns, Commodity, KvCaches, KvFlow, PhaseProgram, add, scaled
from helixsim.flow.station import OperatingLoad
from helixsim.units import BITS_PER_BYTE


@dataclass(frozen=True)
class TwoCommodityFlow:
    """The largest flow of both commodities.

    Parameters
    ----------
    requests_per_s
        Requests/s that are both prefilled and decoded.
    prefill_per_s, decode_per_s
        What each node does of them [requests/s].
    transfers
        KV caches between classes of equal nodes; the first node of a class stands for all of them.
    binding
        What limits the flow, in words, the most valuable first.
    """

    requests_per_s: float
    prefill_per_s: Mapping[str, float] = field(default_factory=dict)
    decode_per_s: Mapping[str, float] = field(default_factory=dict)
    transfers: tuple[KvFlow, ...] = ()
    binding: tuple[str, ...] = ()


def two_commodity_flow(
    fleet: Deployment,
    placement: Placement,
    load: OperatingLoad,
    transfer: KvTransfer | None,
    *,
    tpot_s: float | None = None,
    mixed_nodes_send: bool = False,
) -> TwoCommodityFlow:
    """Return the largest flow of prompts and decodes through a placement, by the roles of its nodes.

    Parameters
    ----------
    placement
        Without partial inference.
    transfer
        How KV caches travel; None: not at all, as where all nodes serve both phases.
    tpot_s
        Objective for the time per token [s]; None: decodes may take as long as they do under saturation.
    mixed_nodes_send
        Whether nodes that serve both phases may send their prompts away. The simulated ones decode them.
    """
    base = PhaseProgram(fleet, placement, load, transfer, tpot_s, mixed_nodes_send)
    if not base.network.classes:
        return TwoCommodityFlow(0.0)
    prefill, decode = Commodity(base, "prefill"), Commodity(base, "decode")
    kv = KvCaches(base, prefill, decode)
    _add_nodes(base, prefill, decode, kv)
    _add_links(base, prefill, decode, kv)
    solution = solver.solve(base.program).optimum("the flow of prefill and decode")
    if solution is None:
        return TwoCommodityFlow(0.0)
    values = solution.values
    valued = sorted(zip(solution.row_duals, base.names, strict=True), key=lambda pair: -abs(pair[0]))
    return TwoCommodityFlow(
        max(0.0, solution.objective),
        prefill.by_node(values),
        decode.by_node(values),
        kv.flows(values),
        tuple(dict.fromkeys(name for dual, name in valued if name and abs(dual) > ZERO)),
    )


def _add_nodes(base: PhaseProgram, prefill: Commodity, decode: Commodity, kv: KvCaches) -> None:
    """Add time, KV memory and the objective of each class of nodes."""
    for number, station in base.stations.items():
        size, title = base.network.size(number), base.title(number)
        prompts, decodes = prefill.through(number), decode.through(number)
        alone_s = station.prompt_alone_s()
        beside_s = min(alone_s, station.prompt_s)
        memory: dict[int, float] = {}
        if prompts:
            base.row(scaled(prompts, alone_s / size), f"time for prompts on {title}", upper=1.0)
            kept = base.load.mean_prompt_tokens / base.kv_tokens(number)
            add(memory, prompts, (prefill.trip_s(number) + kv.sent_s(number)) * kept / size)
        rates = decode.rates(number) if decodes else None
        if rates is not None:
            base.row(_shared(prompts, beside_s / size, decodes, rates.time_s / size), f"time on {title}", upper=1.0)
            stays_s = rates.residence_s + (0.0 if base.roles[number] == "both" else kv.received_s(number))
            add(memory, decodes, stays_s / rates.most_requests / size)
            if base.tpot_s is not None and prompts:
                kept_free = _shared(prompts, beside_s / size, decodes, rates.step_s / size)
                base.row(kept_free, f"time per token on {title}", upper=max(0.0, 1.0 - rates.fixed_share))
        elif decodes:  # no batch meets the objective
            base.row(decodes, f"time per token on {title}", upper=0.0)
        if memory:
            base.row(memory, f"KV memory of {title}", upper=1.0)


def _shared(prompts: Columns, prompt_s: float, decodes: Columns, decode_s: float) -> dict[int, float]:
    """Return what prompts and decodes take together."""
    return add(scaled(prompts, prompt_s), decodes, decode_s)


def _add_links(base: PhaseProgram, prefill: Commodity, decode: Commodity, kv: KvCaches) -> None:
    """Add links between classes, and NICs."""
    links: defaultdict[tuple[int, int], dict[int, float]] = defaultdict(dict)
    out: defaultdict[int, dict[int, float]] = defaultdict(dict)
    into: defaultdict[int, dict[int, float]] = defaultdict(dict)
    activations = base.fleet.model.activation_bytes_per_token + TOKEN_ID_BYTES
    for commodity in (prefill, decode):
        for arc, column in commodity.columns:
            tokens = commodity.tokens(arc)
            if tokens:
                size = TOKEN_ID_BYTES if COORDINATOR_CLASS in (arc.tail, arc.head) else activations
                add(links[arc.tail, arc.head], {column: tokens}, 1 / arc.capacity_tokens_per_s)
                add(out[arc.tail], {column: tokens}, size)
                add(into[arc.head], {column: tokens}, size)
    for (src, dst), sizes in kv.bytes_between.items():
        count = base.network.size(src) * base.network.size(dst)
        add(links[src, dst], sizes, BITS_PER_BYTE / (kv.efficiency * base.link_bps(src, dst) * count))
        add(out[src], sizes, 1 / kv.efficiency)
        add(into[dst], sizes, 1 / kv.efficiency)
    for (src, dst), used in links.items():
        base.row(used, f"links {base.title(src)} -> {base.title(dst)}", upper=1.0)
    for ways in (out, into):
        for number, sizes in ways.items():
            if (nic_bps := base.nic_bps(number)) is not None:
                share = BITS_PER_BYTE / nic_bps / base.network.size(number)
                base.row(scaled(sizes, share), f"NIC of {base.title(number)}", upper=1.0)
