"""Max-flow of a placement over all states in which some failure domains are down.

Domains are up or down independently of each other. States that differ by equal domains have the same flow, so that a
state is the number of domains down of each class; they are computed by the number of domains that are down, until what
is left takes hardly any time or too many states would follow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import comb, prod

from helixsim.domain.cluster import Deployment
from helixsim.domain.placement import Placement
from helixsim.domain.reliability import Availability, Level, Reliability
from helixsim.flow.capacity import CapacityTable
from helixsim.flow.losses import Domain, domains_of, flow_classes, flow_without
from helixsim.flow.maxflow import max_flow_value

LEAST_REST = 1e-6
"""Share of time below which states are left out."""

MOST_FLOWS = 3000
"""Most max-flows that are computed: some seconds for tens of nodes."""


def flow_availability(
    fleet: Deployment,
    placement: Placement,
    capacity: CapacityTable,
    reliability: Reliability,
    kind: Domain = "host",
    *,
    most_flows: int = MOST_FLOWS,
) -> Availability:
    """Return the max-flow [tokens/s] of a placement that is kept, over the states of its failure domains.

    ``reliability``: of single machines; of all regions alike with ``kind`` ``site``, by its values for any type.
    """
    domains = domains_of(fleet.cluster, kind)
    classes: list[tuple[list[str], float]] = []
    for alike in flow_classes(fleet, placement, capacity, domains):
        by_share: dict[float, list[str]] = {}
        for name in alike:
            share = reliability.down_share(fleet.cluster.type_of(domains[name]) if kind == "host" else None)
            by_share.setdefault(share, []).append(name)
        classes += [(names, share) for share, names in by_share.items()]
    sizes = [len(names) for names, _ in classes]
    flows = {(0,) * len(sizes): max_flow_value(fleet, placement, capacity)}
    levels: list[Level] = []
    most, rest = flows[(0,) * len(sizes)], 1.0
    for down in range(sum(sizes) + 1):
        states = list(_states(down, sizes))
        if down and (rest <= LEAST_REST or len(flows) + len(states) > most_flows):
            break
        most = 0.0
        for state in states:
            if state not in flows:
                down_names = [name for (names, _), count in zip(classes, state, strict=True) for name in names[:count]]
                lost = [node for name in down_names for node in domains[name]]
                is_dead = any(flows[one] == 0 for one in _one_less(state))
                flows[state] = 0.0 if is_dead else flow_without(fleet, placement, capacity, lost)
            share = prod(
                comb(size, count) * down_share**count * (1 - down_share) ** (size - count)
                for size, count, (_, down_share) in zip(sizes, state, classes, strict=True)
            )
            levels.append(Level(flows[state], share))
            rest -= share
            most = max(most, flows[state])
    return Availability(tuple(levels), most if len(levels) < prod(size + 1 for size in sizes) else 0.0)


def _states(down: int, sizes: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Yield all numbers of domains down by class that add up to ``down``."""
    if not sizes:
        if not down:
            yield ()
        return
    for count in range(min(down, sizes[0]) + 1):
        for others in _states(down - count, sizes[1:]):
            yield (count, *others)


def _one_less(state: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    for at, count in enumerate(state):
        if count:
            yield (*state[:at], count - 1, *state[at + 1 :])
