"""A pool whose replicas are on spot machines or on demand.

Zones have spot machines for a time and then none. When a zone has none any more, all its spot replicas get notice: they
get no new requests, finish what they can, and stop at the end of the notice; requests that are left are sent again.
A start in a zone without spot machines fails at once. Machines on demand are always there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from helixsim.autoscaling import spot_registry
from helixsim.autoscaling.base import PoolState
from helixsim.autoscaling.spot_base import Mix, SpotState, ZoneState
from helixsim.domain.autoscaling import PoolStats
from helixsim.domain.spot import SpotSpec
from helixsim.engine.autoscaler import State
from helixsim.engine.faulty_pool import FaultyPool
from helixsim.engine.faulty_replica import FaultyReplica
from helixsim.engine.kernel import Call, Priority
from helixsim.errors import PluginError
from helixsim.units import NS_PER_S, seconds_to_ns

FAILED_FOR_NS = 900 * NS_PER_S
"""A zone in which a start has failed, or replicas were preempted, is a last resort for so long [ns]: an assumption."""


@dataclass
class _Zone:
    """A zone; ``shortages`` are those to come."""

    number: int
    shortages: Iterator[tuple[int, int]]
    is_short: bool = False
    failed_ns: int = -FAILED_FOR_NS

    def has_failed(self, now_ns: int) -> bool:
        """Return whether it is a last resort."""
        return now_ns - self.failed_ns < FAILED_FOR_NS


class SpotPool(FaultyPool):
    """See ``FaultyPool``.

    ``lose`` sends the requests of a replica again, ``announced`` is called when some have got notice, ``is_over``: no
    request will come.
    """

    def __init__(
        self, spot: SpotSpec, seed: int, lose: Callable[[FaultyReplica], None], announced: Callable[[], None],
        is_over: Callable[[], bool], *arguments: Any,
    ) -> None:  # fmt: skip
        pool = arguments[0]
        self.zone_of = pool.zones
        self.is_spot = [False] * len(pool.nodes)
        self.preempted = self.failed_starts = 0
        self._spot = spot
        self._lose = lose
        self._announced = announced
        self._is_over = is_over
        self._policy = spot_registry.get(spot.policy)(spot.options)
        self.zones = [_Zone(number, spot.shortages(seed, pool.name, number)) for number in range(max(self.zone_of) + 1)]
        super().__init__(*arguments)
        self.decide = self.decide or _kept(pool.start)
        begins_on_spot = self._wanted().spot > 0
        self.is_spot = [begins_on_spot and state is State.SERVING for state in self.states]
        self.note()

    def begin(self) -> None:
        """Let the first shortage of each zone come, and start what is missing at once."""
        for zone in self.zones:
            self._plan_shortage(zone)
        self._settle()
        self.note()

    # The mixture ------------------------------------------------------------------------------------------------------

    def _change(self, want: int) -> None:
        self.target = want
        self._settle()

    def _numbers(self, state: State, *, spot: bool, zone: int | None = None) -> list[int]:
        return [
            number
            for number, own in enumerate(self.states)
            if own is state and self.is_spot[number] is spot and zone in (None, self.zone_of[number])
        ]

    def _alive(self, *, spot: bool, zone: int | None = None) -> int:
        return sum(len(self._numbers(state, spot=spot, zone=zone)) for state in (State.SERVING, State.STARTING))

    def _wanted(self) -> Mix:
        zones = tuple(
            ZoneState(
                len(self._numbers(State.SERVING, spot=True, zone=zone.number)),
                len(self._numbers(State.STARTING, spot=True, zone=zone.number)),
                zone.has_failed(self._kernel.now_ns),
            )
            for zone in self.zones
        )
        on_demand = (len(self._numbers(state, spot=False)) for state in (State.SERVING, State.STARTING))
        mix = self._policy.mix(SpotState(self._kernel.now_ns / NS_PER_S, self.target, zones, *on_demand))
        if not isinstance(mix, Mix) or mix.spot < 0 or mix.on_demand < 0:
            raise PluginError(f"spot policy {self._spot.policy!r}: returned {mix!r}, expected Mix(spot, on_demand)")
        return mix

    def _settle(self) -> None:
        """Start and give up replicas so that there are as many of both kinds as the policy wants."""
        mix = self._wanted()
        self._fill_zones(mix.spot - self._alive(spot=True))
        for _ in range(mix.on_demand - self._alive(spot=False)):
            number = self._free()
            if number is None:
                break
            self.is_spot[number] = False
            self._start(number)
        for spot, want in ((True, mix.spot), (False, mix.on_demand)):
            for _ in range(self._alive(spot=spot) - want):
                among = [number for number, own in enumerate(self.is_spot) if own is spot]
                self._give_up(among)

    def _free(self, zone: int | None = None) -> int | None:
        """Return a replica that may be started; on demand from the zone with most of them."""
        free = [*filter(self._can_start, range(self.pool.ceiling))]
        if zone is not None:
            return next((number for number in free if self.zone_of[number] == zone), None)
        room = [self.zone_of[number] for number in free]
        return min(free, key=lambda number: (-room.count(self.zone_of[number]), number), default=None)

    def _fill_zones(self, missing: int) -> None:
        """Start spot replicas, each in the zone with the fewest of them; zones that have failed of late come last."""
        now = self._kernel.now_ns
        refused: set[int] = set()
        while missing > 0:
            open_zones = [z for z in self.zones if z.number not in refused and self._free(z.number) is not None]
            if not open_zones:
                return
            zone = min(open_zones, key=lambda z: (z.has_failed(now), self._alive(spot=True, zone=z.number), z.number))
            if zone.is_short:
                zone.failed_ns = now
                refused.add(zone.number)
                self.failed_starts += 1
                continue
            number = self._free(zone.number)
            assert number is not None
            self.is_spot[number] = True
            self._start(number)
            missing -= 1

    def _start(self, number: int) -> None:
        self.leaving.discard(number)
        super()._start(number)

    def _started(self, event: Call) -> None:
        super()._started(event)
        self._settle()
        self.note()

    # Preemptions ------------------------------------------------------------------------------------------------------

    def _plan_shortage(self, zone: _Zone) -> None:
        following = next(zone.shortages, None)
        if following is not None:
            from_ns, until_ns = following
            self._kernel.call_in(from_ns - self._kernel.now_ns, Priority.FAULT, self._short, (zone, until_ns))

    def _short(self, event: Call) -> None:
        """Give notice to the spot replicas of a zone; those that start are gone at once."""
        zone, until_ns = event.argument
        if self._is_over():
            return
        now = self._kernel.now_ns
        zone.is_short = True
        self._kernel.call_in(until_ns - now, Priority.FAULT, self._back, zone)
        hit = [n for n, own in enumerate(self.zone_of) if own == zone.number and self.is_spot[n]]
        for number in hit:
            if self.states[number] is State.STARTING:
                self.states[number] = State.REMOVED
            elif self.states[number] in (State.SERVING, State.DRAINING):
                self.states[number] = State.DRAINING
                self.leaving.add(number)
                argument = number, self._epochs[number]
                self._kernel.call_in(seconds_to_ns(self._spot.notice_s), Priority.FAULT, self._kill, argument)
            else:
                continue
            self.preempted += 1
            zone.failed_ns = now
        for number in hit:
            self.check_empty(number)
        self._announced()
        self._settle()
        self.note()

    def _back(self, event: Call) -> None:
        zone = event.argument
        zone.is_short = False
        if not self._is_over():
            self._plan_shortage(zone)

    def _kill(self, event: Call) -> None:
        """Take the machine of a replica at the end of its notice; the next one is another one."""
        number, epoch = event.argument
        if self._epochs[number] != epoch or self.states[number] is not State.DRAINING:
            return
        replica = self.replicas[number]
        assert isinstance(replica, FaultyReplica)
        self.states[number] = State.REMOVED
        has_failed = replica.is_down
        replica.stop()
        self._lose(replica)
        replica.is_down = has_failed
        self._settle()
        self.note()

    # The report -------------------------------------------------------------------------------------------------------

    def _figures(self) -> tuple[int, ...]:
        on_spot = sum(own and state is not State.REMOVED for own, state in zip(self.is_spot, self.states, strict=True))
        return (*super()._figures(), on_spot, self.target)

    def stats(self) -> PoolStats:
        """See ``FaultyPool.stats``."""
        _, counts = self._series()
        return replace(super().stats(), spot=counts[:, 3], wanted=counts[:, 4], preempted=self.preempted)


def _kept(number: int) -> Callable[[PoolState], int]:
    return lambda _state: number
