"""Upper bound of the requests/s that any roles and any placement serve: bounds of one commodity, by a price.

Of requests that flow at rate ``r``, price prompts at ``w`` and decodes at ``1 - w``, for any ``w`` of 0..1. Every layer
passes ``r`` of each, so ``w r + (1 - w) r = r`` of value. A node with ``k`` layers that spends a share of its time on
either adds at most the larger of ``w P(k)`` and ``(1 - w) D(k)``, where ``P`` and ``D`` are what it does of one phase
alone. So ``r`` is a flow of one commodity over nodes with that capacity, whatever their roles, and each bound of such a
flow (``bounds``) bounds it, over any network. The least over the prices is taken.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

from helixsim import solver
from helixsim.domain.cluster import Deployment
from helixsim.flow.capacity import share_bound
from helixsim.flow.operating import mean_step_time
from helixsim.flow.phase_rates import decode_rates
from helixsim.flow.station import OperatingLoad, Station
from helixsim.placement.bounds import TimeLeft, cover_bound

_MOST_PRICES = 48
"""Prices that are tried, evenly from those at which a node is worth the same for both phases."""


@dataclass(frozen=True, slots=True)
class PhaseRates:
    """Requests/s of a kind of node with 1, 2, ... layers that does one phase alone."""

    prefill_per_s: tuple[float, ...]
    decode_per_s: tuple[float, ...]

    def worth(self, price: float) -> tuple[float, ...]:
        """Return the larger value of both phases, prompts at ``price`` and decodes at the rest of one."""
        pairs = zip(self.prefill_per_s, self.decode_per_s, strict=True)
        return tuple(max(price * prefill, (1 - price) * decode) for prefill, decode in pairs)


def phase_rates(fleet: Deployment, load: OperatingLoad, tpot_s: float | None = None) -> Mapping[str, PhaseRates]:
    """Return what each node does of either phase alone, equal nodes as one object.

    Layers are taken to be of the mean kind, as by ``flow.operating.operating_capacity``; KV memory is the most beside
    any range of so many. Neither links nor other nodes of a route take time.
    """
    known: dict[Hashable, PhaseRates] = {}
    found = {}
    for node, profile in zip(fleet.cluster.nodes, fleet.profiles, strict=True):
        key = (profile.kind, node.kv_blocks, node.max_requests)
        if key not in known:
            prefill, decode = [], []
            for layers in range(1, len(profile.kv_blocks) + 1):
                time = mean_step_time(profile, layers, load.engine, with_graphs=True)
                most = profile.most_kv_tokens(layers)
                kv_tokens = most if node.kv_blocks is None else node.kv_blocks * profile.block_tokens
                station = Station(profile, layers, kv_tokens, load, time, node.max_requests)
                prefill.append(1.0 / min(station.prompt_alone_s(), station.prompt_s))
                rates = decode_rates([station], 0, 0.0, load, tpot_s)
                decode.append(
                    0.0 if rates is None else 1.0 / max(rates.time_s, rates.residence_s / rates.most_requests)
                )
            known[key] = PhaseRates(tuple(prefill), tuple(decode))
        found[node.id] = known[key]
    return found


def two_commodity_bound(
    fleet: Deployment,
    rates: Mapping[str, PhaseRates],
    time_left_s: TimeLeft = lambda: solver.INFINITY,
) -> float:
    """Return requests/s that no placement exceeds, whatever the roles of its nodes; ``rates``: by ``phase_rates``."""
    kinds = Counter(rates[node.id] for node in fleet.cluster.nodes)
    num_layers = fleet.model.num_layers

    def counts(price: float) -> Counter[tuple[float, ...]]:
        found: Counter[tuple[float, ...]] = Counter()
        for kind, count in kinds.items():
            found[kind.worth(price)] += count
        return found

    best = min(_prices(kinds), key=lambda price: share_bound(counts(price), num_layers), default=0.5)
    return cover_bound(counts(best), num_layers, time_left_s)


def _prices(kinds: Counter[PhaseRates]) -> list[float]:
    """Return prices at which some node is worth the same for both phases; the best one is among these, or near one."""
    even = {
        decode / (prefill + decode)
        for kind in kinds
        for prefill, decode in zip(kind.prefill_per_s, kind.decode_per_s, strict=True)
        if prefill > 0 and decode > 0
    }
    ordered = sorted(even)
    step = max(1, -(-len(ordered) // _MOST_PRICES))
    return ordered[::step] + ordered[-1:]
