"""What tenants get from a cluster that they divide: the value of a division, and its fairness."""

from __future__ import annotations

import math
from collections.abc import Sequence

SERVED = 0.99
"""Share of requests within the objectives from which a load is served in full, as verdicts judge 99th percentiles."""


def jain(shares: Sequence[float], weights: Sequence[float]) -> float | None:
    """Return Jain's fairness index of the shares of tenants, each counted with its weight.

    ``(sum w x)**2 / (sum w * sum w x**2)``: 1 if all shares are equal, ``w / sum w`` if a tenant of weight ``w`` has
    everything; with equal weights the index of Jain, Chiu and Hawe (DEC-TR-301, 1984), from 1/n to 1. None: nobody has
    anything.
    """
    squares = math.fsum(w * x * x for w, x in zip(weights, shares, strict=True))
    total = math.fsum(w * x for w, x in zip(weights, shares, strict=True))
    return total * total / (math.fsum(weights) * squares) if squares > 0 else None


def served(share: float) -> float:
    """Return how far a tenant is served, 0..1, by the share of its requests within the objectives."""
    return min(1.0, share / SERVED)


def value(shares: Sequence[float], weights: Sequence[float], priorities: Sequence[int]) -> tuple[float, ...]:
    """Return the weighted mean of how far tenants are served, by priority, the lowest value first.

    Divisions are compared by it. Weights are of all tenants together, so that the sum of the result is the weighted
    mean over all tenants; without any tenant it is empty.
    """
    tenants = list(zip(shares, weights, priorities, strict=True))
    whole = math.fsum(weights)
    return tuple(
        math.fsum(w * served(x) for x, w, own in tenants if own == priority) / whole
        for priority in sorted(set(priorities))
    )
