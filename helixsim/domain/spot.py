"""Replicas on spot machines: how long zones have such machines, and what they cost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from helixsim.rng import stream
from helixsim.units import NS_PER_S


class Shortage(NamedTuple):
    """A zone, by its number from 0, that has no spot machines from and until a time [ns]."""

    zone: int
    from_ns: int
    until_ns: int


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
    stated
        In place of random ones: shortages in the order of time; empty: at random.
    """

    policy: str = "spot_hedge"
    options: Any = None
    price_share: float = 0.35
    zones: int | None = None
    available_s: float = 7200.0
    short_s: float = 1800.0
    notice_s: float = 120.0
    stated: tuple[Shortage, ...] = ()

    def shortages(self, seed: int, pool: str, zone: int) -> Iterator[tuple[int, int]]:
        """Yield when a zone has no spot machines, from and until [ns]: as stated, or at random without end.

        Random ones follow from seed, pool and zone alone.
        """
        if self.stated:
            yield from ((one.from_ns, one.until_ns) for one in self.stated if one.zone == zone)
            return
        rng = stream(seed, f"spot {pool} {zone}")
        at_ns = 0
        while True:
            from_ns = at_ns + max(1, round(rng.exponential(self.available_s) * NS_PER_S))
            at_ns = from_ns + max(1, round(rng.exponential(self.short_s) * NS_PER_S))
            yield from_ns, at_ns
