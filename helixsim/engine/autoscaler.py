"""The controller of pools of replicas: it looks at intervals, starts replicas, and drains and removes them.

All replicas up to the ceiling exist all along; one that does not serve gets no requests. A replica that starts serves
after its start-up time. One that is given up finishes its own requests and is then removed, with what its prefix cache
held; it is not taken back before, as a pod that terminates is not. Of several, those that start are given up first,
then those with the fewest requests in flight.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import IntEnum

import numpy as np

from helixsim.autoscaling.base import Others, PoolState
from helixsim.domain.autoscaling import AutoscalingSpec, AutoscalingStats, Pool, PoolStats
from helixsim.domain.result import IntArray
from helixsim.engine.kernel import Call, Kernel, Priority
from helixsim.engine.replica import Replica
from helixsim.engine.scaling_policies import decider, measured, scheduled
from helixsim.units import NS_PER_S, seconds_to_ns


class State(IntEnum):
    """State of a replica."""

    REMOVED = 0
    STARTING = 1
    SERVING = 2
    DRAINING = 3


class ScaledPool:
    """The replicas of a pool and their states; ``in_flight`` tells how many requests a replica has."""

    def __init__(
        self, pool: Pool, spec: AutoscalingSpec, replicas: Sequence[Replica], kernel: Kernel,
        in_flight: Callable[[Replica], int], queue: Callable[[Replica], int], served: Callable[[], None],
        unrouted: Callable[[], int],
    ) -> None:  # fmt: skip
        self.pool = pool
        self.replicas = replicas
        self._spec = spec
        self._kernel = kernel
        self._in_flight = in_flight
        self._queue = queue
        self._served = served
        self._unrouted = unrouted
        self.policy = replace(spec.policy, target=pool.target or spec.policy.target)
        self.decide = decider(self.policy, pool.activation)
        self.states = [State.SERVING if number < pool.start else State.REMOVED for number in range(len(replicas))]
        self._epochs = [0] * len(replicas)
        self._decided: deque[tuple[int, int]] = deque()
        self._looked_ns = 0
        self.sent = self.known = self.good = self.starts = 0
        self._times_ns: list[int] = []
        self._counts: list[tuple[int, ...]] = []
        self.note()

    def count(self, state: State) -> int:
        """Return how many replicas are in a state."""
        return self.states.count(state)

    def note(self) -> None:
        """Keep the states for the report."""
        now = self._kernel.now_ns
        counts = self._figures()
        if self._times_ns and self._times_ns[-1] == now:
            self._counts[-1] = counts
        elif not self._counts or self._counts[-1] != counts:
            self._times_ns.append(now)
            self._counts.append(counts)

    def _figures(self) -> tuple[int, ...]:
        return self.count(State.SERVING), self.count(State.STARTING), self.count(State.DRAINING)

    def _has(self) -> int:
        """Return how many replicas serve or will, of those that the policy has asked for."""
        return self.count(State.SERVING) + self.count(State.STARTING)

    def look(self, state: PoolState) -> None:
        """Decide how many replicas there should be, and begin to change their number."""
        assert self.decide is not None
        now = self._kernel.now_ns
        want = min(max(self.decide(state), self.pool.floor), self.pool.ceiling)
        self.sent = self.known = self.good = 0
        self._looked_ns = now
        self._change(want if self._spec.policy.name == "schedule" else self._stable(want, now))
        self.note()

    def state(self, late: int) -> PoolState:
        """Return what a policy sees; ``late``: requests whose first token is overdue."""
        now_ns = self._kernel.now_ns
        serving = [one for one, state in zip(self.replicas, self.states, strict=True) if state is State.SERVING]
        for replica in serving:
            replica.book()
        return PoolState(
            now_ns / NS_PER_S,
            (now_ns - self._looked_ns) / NS_PER_S,
            len(serving),
            self.count(State.STARTING),
            sum(map(self._in_flight, serving)),
            sum(map(self._queue, serving)),
            sum(replica.kv_usage for replica in serving),
            self.sent,
            self.known + late,
            self.good,
            self._unrouted(),
        )

    def _stable(self, want: int, now_ns: int) -> int:
        """Return the number, if it is smaller than now only down to the largest that was decided of late."""
        self._decided.append((now_ns, want))
        while self._decided[0][0] < now_ns - seconds_to_ns(self._spec.stabilisation_s):
            self._decided.popleft()
        has = self._has()
        return want if want >= has else min(has, max(number for _, number in self._decided))

    def _change(self, want: int) -> None:
        missing = want - self.count(State.SERVING) - self.count(State.STARTING)
        for _ in range(missing):
            number = next(filter(self._can_start, range(self.pool.ceiling)), None)
            if number is None:
                break  # the machines of those that drain are not free yet
            self._start(number)
        for _ in range(-missing):
            self._give_up(range(len(self.states)))

    def _can_start(self, number: int) -> bool:
        return self.states[number] is State.REMOVED

    def _start(self, number: int) -> None:
        self.states[number] = State.STARTING
        self._epochs[number] += 1
        self.starts += 1
        self._kernel.call_in(self.pool.startup_ns, Priority.COORDINATE, self._started, (number, self._epochs[number]))

    def _started(self, event: Call) -> None:
        number, epoch = event.argument
        if self._epochs[number] == epoch and self.states[number] is State.STARTING:
            self.states[number] = State.SERVING
            self.note()
            self._served()

    def _give_up(self, numbers: Sequence[int]) -> None:
        """Of some replicas remove the last one that starts, or let the one with the fewest requests drain."""
        starting = [number for number in numbers if self.states[number] is State.STARTING]
        if starting:
            self.states[max(starting, key=lambda number: self._epochs[number])] = State.REMOVED
            return
        serving = [number for number in numbers if self.states[number] is State.SERVING]
        number = min(serving, key=lambda number: (self._in_flight(self.replicas[number]), -number))
        self.states[number] = State.DRAINING
        self.check_empty(number)

    def check_empty(self, number: int) -> None:
        """Remove a replica that drains and has no requests left."""
        replica = self.replicas[number]
        if self.states[number] is State.DRAINING and not self._in_flight(replica):
            self.states[number] = State.REMOVED
            replica.clear()
            self.note()

    def stats(self) -> PoolStats:
        """Return what the run leaves of it."""
        times_ns, counts = self._series()
        return PoolStats(self.pool, times_ns, counts[:, 0], counts[:, 1], counts[:, 2], self.starts)

    def _series(self) -> tuple[IntArray, IntArray]:
        return np.array(self._times_ns, dtype=np.int64), np.array(self._counts, dtype=np.int64)


class Autoscaler:
    """The controller: looks at all pools at intervals until no request is left and none will come."""

    def __init__(
        self, spec: AutoscalingSpec, pools: Sequence[ScaledPool], kernel: Kernel, late: Callable[[ScaledPool], int],
        is_over: Callable[[], bool], alone: Callable[[], PoolState | None],
    ) -> None:  # fmt: skip
        """``alone``: returns what is seen of the replicas of no pool; None: there are none."""
        self.pools = pools
        self._alone = alone
        self._spec = spec
        self._kernel = kernel
        self._late = late
        self._is_over = is_over
        self._interval_ns = seconds_to_ns(spec.interval_s)

    def start(self) -> None:
        """Look for the first time after an interval, if any number may change at all."""
        if any(pool.decide is not None for pool in self.pools):
            self._kernel.call_in(self._interval_ns, Priority.SAMPLE, self._look, None)

    def _look(self, _event: Call) -> None:
        states = [pool.state(self._late(pool)) for pool in self.pools]
        alone = self._alone()
        for pool, state in zip(self.pools, states, strict=True):
            pool.look(replace(state, others=self._others(pool, states, alone)))
        if not self._is_over():
            self._kernel.call_in(self._interval_ns, Priority.SAMPLE, self._look, None)

    def _others(self, pool: ScaledPool, states: Sequence[PoolState], alone: PoolState | None) -> Others | None:
        """Return what there is besides a pool; those that others have just begun to start are among them."""
        shown = [(other, state) for other, state in zip(self.pools, states, strict=True) if other is not pool]
        found = [(state.serving, *measured(other.policy, state)) for other, state in shown]
        if alone is not None:
            found.append((alone.serving, *measured(self._spec.policy, alone)))
        if not found:
            return None
        serving = sum(number for number, _, _ in found)
        limits = sum(number * limit for number, _, limit in found)
        return Others(
            serving,
            sum(other.count(State.STARTING) for other, _ in shown),
            sum(total / limit for _, total, limit in found),
            limits / serving if serving else 1.0,
        )

    def stats(self) -> AutoscalingStats:
        """Return what the run leaves."""
        spot = self._spec.spot
        price_share = 1.0 if spot is None else spot.price_share
        return AutoscalingStats(tuple(pool.stats() for pool in self.pools), self._spec.window_s, price_share)


def first_number(spec: AutoscalingSpec, start: int | None, floor: int, ceiling: int) -> int:
    """Return the replicas at the beginning: as stated, by the schedule, all if the number is fixed, or the fewest."""
    if start is not None:
        return start
    if spec.policy.name == "schedule":
        return min(max(scheduled(spec.policy, 0.0), floor), ceiling)
    return ceiling if spec.policy.name == "fixed" else floor
