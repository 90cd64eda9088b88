"""How often nodes fail and how long they are down, and the share of time that follows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Reliability:
    """Independent failures and repairs.

    Parameters
    ----------
    mtbf_s, mttr_s
        Mean time from a repair to the next failure, and from a failure to the repair [s].
    mtbf_by_type_s
        In place of ``mtbf_s`` for some types of nodes (``t4``, ``h100x8``) [s].
    """

    mtbf_s: float
    mttr_s: float
    mtbf_by_type_s: Mapping[str, float] = field(default_factory=dict)

    def down_share(self, node_type: str | None = None) -> float:
        """Return the share of time in which a node of a type is down, 0..1; None: any that is not named."""
        mtbf_s = self.mtbf_s if node_type is None else self.mtbf_by_type_s.get(node_type, self.mtbf_s)
        return self.mttr_s / (mtbf_s + self.mttr_s)


SHARES = (0.99, 0.999, 0.9999)
"""Shares of time that reports state."""


@dataclass(frozen=True, slots=True)
class Level:
    """A state: what is served in it, and its share of time (0..1)."""

    value: float
    share: float


@dataclass(frozen=True, slots=True)
class Availability:
    """What is served over the states of a cluster, and for which share of time.

    Parameters
    ----------
    levels
        The states that were computed.
    rest_most
        What is served at most in the other states, in the unit of the levels.
    """

    levels: tuple[Level, ...]
    rest_most: float

    @property
    def rest_share(self) -> float:
        """Share of time of the states that were not computed, 0..1."""
        return max(0.0, 1.0 - sum(level.share for level in self.levels))

    @property
    def mean(self) -> tuple[float, float]:
        """Bounds of the mean over time: nothing, and the most, is served in the other states."""
        low = sum(level.value * level.share for level in self.levels)
        return low, low + self.rest_share * self.rest_most

    def served(self, share: float) -> float:
        """Return what is served for at least this share of time (0..1); 0 if the computed states do not show it."""
        total = 0.0
        for level in sorted(self.levels, key=lambda level: -level.value):
            total += level.share
            if total >= share:
                return level.value
        return 0.0

    def share_at_least(self, value: float) -> tuple[float, float]:
        """Return bounds of the share of time in which at least so much is served, 0..1."""
        low = sum(level.share for level in self.levels if level.value >= value * (1 - 1e-9))
        return low, min(1.0, low + (self.rest_share if self.rest_most >= value * (1 - 1e-9) else 0.0))


def single_losses(whole: float, losses: Iterable[tuple[float, int, float]]) -> Availability:
    """Return the availability by the states in which at most one node is down.

    Parameters
    ----------
    whole
        What is served by all nodes.
    losses
        (what is served without one node of a class, nodes of the class, share of time in which one is down).
        More losses leave no more than the best of them.
    """
    classes = list(losses)
    nothing = 1.0
    for _, count, share in classes:
        nothing *= (1.0 - share) ** count
    levels = [Level(whole, nothing)]
    levels += [Level(value, nothing * count * share / (1.0 - share)) for value, count, share in classes]
    return Availability(tuple(levels), max((value for value, _, _ in classes), default=0.0))
