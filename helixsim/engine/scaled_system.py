"""Replicas of which not all serve all the time (``autoscaler``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from helixsim.domain.autoscaling import AutoscalingStats, Pool
from helixsim.domain.request import Slo
from helixsim.engine.autoscaler import Autoscaler, ScaledPool, State
from helixsim.engine.frontend import Frontend, ReplicaView
from helixsim.engine.kernel import Call
from helixsim.engine.replica import Replica
from helixsim.engine.replica_system import ReplicaSystem
from helixsim.engine.sequences import Sequence
from helixsim.routing.base import Hop
from helixsim.units import NS_PER_S


class ScaledView(ReplicaView):
    """See ``ReplicaView``: a replica that does not serve has no room."""

    place_of: Mapping[int, tuple[ScaledPool, int]]
    """By number of the replica, its pool and its number there; replicas of no pool always serve."""

    def fits(self, hop: Hop) -> bool:
        """See ``RoutingView.fits``."""
        return self._serves(self._of[hop.node].number) and super().fits(hop)

    def has_any(self) -> bool:
        """Return whether any replica serves; without one, requests wait."""
        return any(map(self._serves, range(len(self.submitted))))

    def _serves(self, number: int) -> bool:
        place = self.place_of.get(number)
        return place is None or place[0].states[place[1]] is State.SERVING


class ScaledFrontend(Frontend):
    """A frontend that counts what each pool is sent and finishes, and reports replicas without requests."""

    view: ScaledView
    slo: Slo | None = None
    """Objectives by which finished requests are counted; None: they are not."""

    def _book(self, replica: Replica, sequence: Sequence) -> None:
        super()._book(replica, sequence)
        place = self.view.place_of.get(replica.number)
        if place is not None:
            place[0].sent += 1

    def _forget(self, replica: Replica, left: list[Sequence]) -> None:
        super()._forget(replica, left)
        place = self.view.place_of.get(replica.number)
        if place is not None and left:
            place[0].check_empty(place[1])

    def _finish_all(self, event: Call) -> None:
        if self.slo is not None:
            for sequence in event.argument:
                place = self.view.place_of.get(sequence.path.number)
                if place is not None:
                    place[0].known += 1
                    place[0].good += is_good(sequence, self.slo, self.kernel.now_ns)
        super()._finish_all(event)

    def late(self, pool: ScaledPool) -> int:
        """Return the requests of a pool that wait for a first token which is overdue."""
        if self.slo is None:
            return 0
        numbers, now = {replica.number for replica in pool.replicas}, self.kernel.now_ns
        return sum(
            sequence.first_token_ns < 0
            and sequence.path is not None
            and sequence.path.number in numbers
            and _is_past(sequence, self.slo, now)
            for sequence in self.active.values()
        )

    def _route(self) -> None:
        if self.view.has_any():
            super()._route()

    @property
    def is_over(self) -> bool:
        """Whether no request is left and none will come."""
        return self._source.is_over and not self.active and not self.waiting

    def has_room(self) -> None:
        """Route the requests that wait, as one more replica serves."""
        if self.waiting:
            self._plan()


def is_good(sequence: Sequence, slo: Slo, now_ns: int) -> bool:
    """Return whether a request that finishes now has met its objectives."""
    name = sequence.request.slo_class
    own = slo if name is None else slo.of(name)
    if own.ttft_s is not None and sequence.first_token_ns - sequence.arrival_ns > own.ttft_s * NS_PER_S:
        return False
    gaps = sequence.generated - 1
    if own.tpot_s is not None and gaps and now_ns - sequence.first_token_ns > own.tpot_s * NS_PER_S * gaps:
        return False
    return own.e2el_s is None or now_ns - sequence.arrival_ns <= own.e2el_s * NS_PER_S


def _is_past(sequence: Sequence, slo: Slo, now_ns: int) -> bool:
    own = slo if sequence.request.slo_class is None else slo.of(sequence.request.slo_class)
    return own.ttft_s is not None and now_ns - sequence.arrival_ns > own.ttft_s * NS_PER_S


class ScaledSystem(ReplicaSystem):
    """Coordinator, replicas that come and go, and links (a ``System``)."""

    frontend_kind: type[Frontend] = ScaledFrontend
    frontend: ScaledFrontend
    view_kind: type[ScaledView] = ScaledView

    def _show(self, of_node: Mapping[int, Replica], at_once: bool) -> None:
        autoscaling, frontend = self.inputs.autoscaling, self.frontend
        assert autoscaling is not None
        frontend.view = view = self.view_kind(of_node, at_once)
        if autoscaling.spec.policy.name == "goodput":
            frontend.slo = autoscaling.slo
        seeing = (
            self.kernel,
            lambda replica: view.submitted[replica.number],
            lambda replica: len(replica.scheduler.queue) + len(view.coming[replica.number]),
            frontend.has_room,
            lambda: len(frontend.waiting),
        )
        spec = autoscaling.spec
        pools = [
            self._pool(pool, spec, [self._replica_of[node] for node in pool.nodes], *seeing)
            for pool in autoscaling.pools
        ]
        view.place_of = {
            replica.number: (pool, number) for pool in pools for number, replica in enumerate(pool.replicas)
        }
        others = {one.number: one for one in self._replica_of.values() if one.number not in view.place_of}
        count = 0 if spec.policy.name == "goodput" or spec.policy.metric == "rate" else len(others)
        rest = ScaledPool(Pool("", (), count, count, count, 0, 0.0), spec, [*others.values()][:count], *seeing)
        alone = (lambda: rest.state(0)) if count else lambda: None  # what is sent to them is not counted
        self.autoscaler = Autoscaler(spec, pools, self.kernel, frontend.late, lambda: frontend.is_over, alone)

    def _pool(self, *arguments: Any) -> ScaledPool:
        return ScaledPool(*arguments)

    def start(self) -> None:
        """See ``System.start``."""
        super().start()
        self.autoscaler.start()

    def autoscaling(self) -> AutoscalingStats:
        """See ``System.autoscaling``."""
        return self.autoscaler.stats()
