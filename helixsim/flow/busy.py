"""What nodes pass that compute all the time: an upper bound for every placement, routing and network.

A step of a node with ``k`` layers has ``d`` decodes, up to what memory holds at the mean context, and ``p`` prompt
tokens, up to the token budget, and takes ``t``. A load has ``r`` prompt tokens for each decode step, and each layer
computes both in this proportion, but not each node: some may prefill and others decode. With a price ``q`` of a prompt
token, the same on all nodes, the worth of what all nodes with a layer compute, ``d (1 - q r) + q p``, is the number of
decode steps that pass it. So no node supplies more than the largest ``(d (1 - q r) + q p) / t`` of all its steps, and
bounds that hold for nodes of these capacities hold for the load, whatever ``q`` is; here it is the one with the least
share bound.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from helixsim.domain.cluster import Deployment
from helixsim.errors import InfeasibleError
from helixsim.flow.capacity import CapacityTable, share_bound
from helixsim.flow.operating import mean_step_time
from helixsim.flow.station import OperatingLoad, Station

_PRICE_CUTS = 24
"""Cuts of the range of prices by a third each; any price is valid."""

Floats = NDArray[np.float64]


def busy_capacity(fleet: Deployment, load: OperatingLoad) -> CapacityTable:
    """Return what kinds of nodes pass that compute all the time, in the steps that are worth most.

    Bounds for these capacities hold under the step time law at mean lengths, with CUDA graphs, and for nodes with
    roles. Where some nodes get shorter requests than others, their memory may hold more of them.

    Raises
    ------
    InfeasibleError
        If no node of the fleet can hold a single layer.
    """
    kinds = {profile.kind: profile for profile in fleet.profiles}
    steps = {
        kind: [
            Station(
                profile, layers, profile.kv_tokens(layers), load,
                mean_step_time(profile, layers, load.engine, with_graphs=True),
            ).steps()
            for layers in range(1, len(profile.kv_blocks) + 1)
        ]
        for kind, profile in kinds.items()
    }  # fmt: skip
    if not any(steps.values()):
        raise InfeasibleError(f"no node of the fleet can hold one layer of {fleet.model.name} and any KV cache")
    counts = Counter(profile.kind for profile in fleet.profiles)

    def bound(price: float) -> float:
        tables = _tables(steps, price, load)
        of_table: Counter[tuple[float, ...]] = Counter()
        for kind, count in counts.items():
            of_table[tables[kind]] += count
        return share_bound(of_table, fleet.model.num_layers)

    low, high = 0.0, load.mean_steps / load.mean_prompt_tokens
    for _ in range(_PRICE_CUTS):  # a largest of linear functions is convex, and so is the bound, but for rounding
        third = (high - low) / 3
        low, high = (low + third, high) if bound(low + third) > bound(high - third) else (low, high - third)
    return CapacityTable(
        tables=_tables(steps, (low + high) / 2, load),
        kinds={node.id: profile.kind for node, profile in zip(fleet.cluster.nodes, fleet.profiles, strict=True)},
        assumptions=("Node capacities: always busy, in the steps that are worth most of those that memory allows.",),
    )


def _tables(
    steps: Mapping[str, Sequence[tuple[Floats, Floats, Floats]]], price: float, load: OperatingLoad
) -> dict[str, tuple[float, ...]]:
    """Return the tokens/s of each kind with 1, 2, ... layers at a price of prompt tokens [decode steps]."""
    each = load.mean_prompt_tokens / load.mean_steps
    return {
        kind: tuple(
            load.tokens_per_step * float(((decodes * (1 - price * each) + price * tokens) / time_s).max())
            for decodes, tokens, time_s in of_layers
        )
        for kind, of_layers in steps.items()
    }
