"""Pools of equal replicas whose number follows the load: what is stated of them, and what a run leaves of them.

The terms are those of Kubernetes' HorizontalPodAutoscaler (docs/autoscaling.md): a controller looks at intervals,
compares a mean over the replicas that serve with its target, and starts or removes replicas.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from helixsim.domain.spot import SpotSpec

BUILT_IN = ("fixed", "schedule", "queue", "kv_use", "goodput", "target")
"""Policies of helixsim; others are the user's own, by their import paths."""

Metric = Literal["in_flight", "waiting", "kv_use", "rate"]
"""Of each replica that serves: requests sent to it and not finished, of these those that wait for admission, share of
its KV memory in use, and requests sent to it per second."""


class Entry(NamedTuple):
    """An entry of a schedule: from this time on [s], so many replicas."""

    at_s: float
    replicas: int


@dataclass(frozen=True, slots=True)
class PolicySpec:
    """How the number of replicas of a pool is decided.

    Parameters
    ----------
    name
        ``fixed``: as many as at the start. ``schedule``: by the time of day. ``queue`` and ``kv_use``: one more while a
        mean over replicas is above ``high``, one less while it is below ``low``. ``goodput``: one more while less than
        ``least`` of the requests meet their objectives, one less if the others would then have no more requests/s than
        replicas have served within them. ``target``: Kubernetes' rule, ``ceil(replicas * metric / target)``. Others:
        import path of a class or function of the user's own.
    metric, target, tolerance
        Of ``target``: ratios within ``1 +- tolerance`` change nothing.
    high, low
        Of ``queue`` [waiting requests] and ``kv_use`` (0..1).
    least
        Of ``goodput``, 0..1.
    entries, period_s
        Of ``schedule``, in the order of time; begins again after the period [s].
    options
        Of a policy of the user's own.
    """

    name: str
    metric: Metric = "in_flight"
    target: float = 1.0
    tolerance: float = 0.1
    high: float = 1.0
    low: float = 0.0
    least: float = 0.99
    entries: tuple[Entry, ...] = ()
    period_s: float = 86_400.0
    options: Any = None


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """A pool: the replicas on nodes of one type.

    ``ceiling`` None: all of them; ``start`` None: by the policy; ``target`` None: that of the policy; ``activation`` as
    in ``Pool``.
    """

    node_type: str
    floor: int = 1
    ceiling: int | None = None
    start: int | None = None
    target: float | None = None
    activation: float = 1.0


@dataclass(frozen=True, slots=True)
class AutoscalingSpec:
    """Autoscaling of a system.

    Parameters
    ----------
    pools
        Replicas on nodes of other types always serve.
    interval_s
        Time between two looks of the controller [s].
    stabilisation_s
        A pool gets smaller to the largest number that was decided within this time [s].
    machine_s, engine_s
        Time until a machine runs, and of the start of the engine without its weights [s].
    weights_bps
        Rate at which each node reads its weights [bit/s]. Sources of the defaults: docs/autoscaling.md.
    window_s
        Parts of the run for which the fewest GPUs are stated [s].
    spot
        None: all replicas are on demand.
    """

    policy: PolicySpec
    pools: tuple[PoolSpec, ...]
    interval_s: float = 15.0
    stabilisation_s: float = 300.0
    machine_s: float = 60.0
    engine_s: float = 64.0
    weights_bps: float = 8e9
    window_s: float = 900.0
    spot: SpotSpec | None = None


@dataclass(frozen=True, slots=True)
class Pool:
    """A pool of a placed system.

    Parameters
    ----------
    name
        Type of its nodes.
    nodes
        First node of each replica, in the order in which they are started; those beyond ``ceiling`` never are.
    gpus, usd_per_hour
        Of each replica [GPUs, $/h].
    startup_ns
        From the decision to the first request [ns].
    capacity_rps
        Requests/s that a replica of the largest number serves within the objectives; None: none are stated.
    target
        In place of that of the policy, if any.
    zones
        Number of the zone of each replica, where some are on spot machines.
    activation
        Load of the other replicas, over what they should have, above which the first replica is started.
    """

    name: str
    nodes: tuple[str, ...]
    floor: int
    ceiling: int
    start: int
    gpus: int
    usd_per_hour: float
    startup_ns: int = 0
    capacity_rps: float | None = None
    target: float | None = None
    zones: tuple[int, ...] = ()
    activation: float = 1.0


@dataclass(frozen=True, slots=True)
class PoolStats:
    """A pool over a run: replicas in each state from a time on [ns]; the first entry is at 0.

    ``starts`` counts replicas that were started after the beginning, ``lost`` those whose machines failed. Where
    some are on spot machines: ``spot`` those that are paid for, ``wanted`` the number that the policy asks for,
    ``preempted`` how many have been.
    """

    pool: Pool
    time_ns: NDArray[np.int64]
    serving: NDArray[np.int64]
    starting: NDArray[np.int64]
    draining: NDArray[np.int64]
    starts: int
    spot: NDArray[np.int64] | None = None
    wanted: NDArray[np.int64] | None = None
    preempted: int = 0
    lost: int | None = None

    @property
    def paid(self) -> NDArray[np.int64]:
        """Replicas that are paid for: from the beginning of their start until they are removed."""
        return self.serving + self.starting + self.draining


@dataclass(frozen=True, slots=True)
class AutoscalingStats:
    """The pools of a run; ``window_s`` as in ``AutoscalingSpec``, ``spot_price_share`` as in ``SpotSpec``."""

    pools: tuple[PoolStats, ...]
    window_s: float
    spot_price_share: float = 1.0
