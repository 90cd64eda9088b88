"""Replicas on spot machines: how long zones have such machines, and what they cost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from helixsim.rng import stream
from helixsim.units import NS_PER_S


@dataclass(frozen=True, slots=True)
class SpotSpec:
    """Spot machines of the pools of a system.

    Parameters
    ----------
    policy, options
        Policy of the mixture (``autoscaling.spot_policies``, or import path) and its options.
    price_share
        Price of a spot machine as a share of that on demand, 0..1.
    zones
        Number of zones into which the replicas of a pool are put in turn; None: the regions of their first nodes.
    available_s, short_s
        Mean time for which a zone has spot machines, and for which it has none [s]; exponentially distributed.
    notice_s
        From the notice of a preemption until the machine is taken [s].
    """

    policy: str = "spot_hedge"
    options: Any = None
    price_share: float = 0.35
    zones: int | None = None
    available_s: float = 7200.0
    short_s: float = 1800.0
    notice_s: float = 120.0

    def shortages(self, seed: int, pool: str, zone: int) -> Iterator[tuple[int, int]]:
        """Yield when a zone has no spot machines, from and until [ns], without end; by seed and zone alone."""
        rng = stream(seed, f"spot {pool} {zone}")
        at_ns = 0
        while True:
            from_ns = at_ns + max(1, round(rng.exponential(self.available_s) * NS_PER_S))
            at_ns = from_ns + max(1, round(rng.exponential(self.short_s) * NS_PER_S))
            yield from_ns, at_ns
