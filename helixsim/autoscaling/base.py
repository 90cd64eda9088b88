"""What an autoscaling policy sees of a pool at one look of the controller, and what it decides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from helixsim.domain.autoscaling import Metric


@dataclass(frozen=True, slots=True)
class Others:
    """The replicas of a system that are not of a pool, those of no pool included.

    Parameters
    ----------
    serving, starting
        How many serve, and start.
    load
        Load of those that serve, by the metric of the policy, in replicas with as much as its target (``target``) or
        its upper limit (``queue``, ``kv_use``); with ``goodput`` the share of requests beyond the objectives over that
        which it allows, times the replicas; with a policy of the user's own the requests in flight.
    limit
        The mean target, or upper limit, of a replica.
    """

    serving: int
    starting: int
    load: float
    limit: float


@dataclass(frozen=True, slots=True)
class PoolState:
    """A pool at one look.

    ``in_flight``, ``waiting`` and ``kv_use`` are sums over the replicas that serve (``domain.autoscaling.Metric``);
    ``sent``, ``decided`` and ``good`` requests since the last look: sent to the pool, with a known outcome, and of
    these within their objectives. ``unrouted``: requests that wait at the coordinator, as no replica of any pool
    serves. ``others``: None: all replicas are of this pool.
    """

    now_s: float
    interval_s: float
    serving: int
    starting: int
    in_flight: int
    waiting: int
    kv_use: float
    sent: int
    decided: int
    good: int
    unrouted: int = 0
    others: Others | None = None

    @property
    def replicas(self) -> int:
        """Replicas that serve or will."""
        return self.serving + self.starting

    def total(self, metric: Metric) -> float:
        """Return a metric, summed over the replicas that serve."""
        return self.sent / self.interval_s if metric == "rate" else float(getattr(self, metric))


Decide = Callable[[PoolState], int]


class AutoscalingPolicy(Protocol):
    """A policy. A class of the user needs these; each pool has an instance of its own, which may have a state.

    ``Options`` is a frozen dataclass; its fields become keys of ``autoscaling.options`` in exp.yaml.
    """

    summary: ClassVar[str]
    Options: ClassVar[type[Any]]

    def __init__(self, options: Any) -> None: ...

    def decide(self, state: PoolState) -> int:
        """Return how many replicas there should be; floor and ceiling of the pool are kept by the controller."""
        ...
