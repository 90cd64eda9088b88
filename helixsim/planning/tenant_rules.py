"""Divisions of nodes among tenants that one would make by hand."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import product

from helixsim.config.experiment import ResolvedExperiment
from helixsim.results.tenants import Counts, NodeKind

IN_PROPORTION, EQUALLY = "each kind in proportion to tokens/s x weights", "each kind equally"
"""Origins of divisions by a rule."""

MOST_BY_KIND = 64
"""Most divisions that give each kind to one tenant; where there are more, none are tried."""


def by_kind(names: Sequence[str], kinds: Sequence[NodeKind]) -> Iterator[tuple[str, tuple[Counts, ...]]]:
    """Yield all divisions, with their origins, that give each kind of nodes to one of the tenants."""
    tenants = range(len(names))
    if len(names) ** len(kinds) > MOST_BY_KIND:
        return
    for owners in product(tenants, repeat=len(kinds)):
        owned = list(zip(kinds, owners, strict=True))
        counts = tuple(tuple(len(kind.ids) if owner == one else 0 for kind, owner in owned) for one in tenants)
        labels = [[kind.label for kind, owner in owned if owner == one] for one in tenants]
        said = [f"{' and '.join(own)} to {name}" for own, name in zip(labels, names, strict=True) if own]
        yield ", ".join(said), counts


def in_proportion(available: Counts, work: Sequence[float]) -> tuple[Counts, ...]:
    """Return the nodes of each kind divided in proportion to work, by largest remainders; ties to the first tenant."""
    columns = []
    for n in available:
        exact = [n * one / math.fsum(work) for one in work]
        own = [math.floor(one + 1e-9) for one in exact]
        order = sorted(range(len(work)), key=lambda number: (own[number] - exact[number], number))
        for number in order[: n - sum(own)]:
            own[number] += 1
        columns.append(own)
    return tuple(zip(*columns, strict=True))


def work_of(experiments: Sequence[ResolvedExperiment]) -> list[float]:
    """Return how much each tenant asks for: tokens/s that arrive times the bytes of its weights."""
    return [
        (one.workload_stats.offered_rps or 0.0)
        * (one.workload_stats.mean_prompt_tokens + one.workload_stats.mean_output_tokens)
        * one.fleet.model.weight_bytes_per_layer
        * one.fleet.model.num_layers
        for one in experiments
    ]
