"""Replicas that can fail (``faulty_replica``) behind a frontend that sends their requests again."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from helixsim.domain.faults import CopyStats, FailureCause, Outage
from helixsim.domain.request import FeedMode, Request
from helixsim.domain.result import RequestStatus
from helixsim.engine.faults import Gate, Retries
from helixsim.engine.faulty_replica import FaultyReplica, FaultyStage
from helixsim.engine.frontend import Frontend, ReplicaView
from helixsim.engine.inputs import SimulationInputs
from helixsim.engine.kernel import Call, Kernel
from helixsim.engine.load_source import LoadSource
from helixsim.engine.network import NetworkFabric
from helixsim.engine.parking import Parking
from helixsim.engine.recorder import Recorder
from helixsim.engine.replica import Replica
from helixsim.engine.replica_system import ReplicaSystem
from helixsim.engine.sequences import Sequence
from helixsim.engine.stage import Submission
from helixsim.routing.base import Hop, RoutingPolicy


@dataclass(frozen=True, slots=True)
class _Route:
    """A route by its number among those of the run (``system.Numbered``)."""

    number: int


class FaultyView(ReplicaView):
    """The replicas as the frontend knows them, without those that it knows to be down.

    ``live_context_tokens``: the largest context that one of the others could hold.
    """

    def __init__(self, of_node: Mapping[int, FaultyReplica], at_once: bool) -> None:
        super().__init__(of_node, at_once)
        self._replicas = {replica.number: replica for replica in of_node.values()}
        self.live_context_tokens = self.largest_context_tokens
        self.down: frozenset[int] = frozenset()

    def takes_copies(self, number: int) -> bool:
        """See ``kv_copies.View``."""
        return number not in self.down

    def is_leaving(self, number: int) -> bool:
        """See ``kv_copies.View``."""
        return number in self.down

    def fits(self, hop: Hop) -> bool:
        """See ``RoutingView.fits``."""
        return self._of[hop.node].number not in self.down and super().fits(hop)

    def without(self, down: frozenset[int]) -> None:
        """Leave replicas out from now on."""
        self.down = down
        left = [replica.capacity_tokens for replica in self._replicas.values() if replica.number not in down]
        self.live_context_tokens = max(left, default=0)


class FaultyFrontend(Parking[Sequence], Frontend):
    """A frontend that sends requests again whose KV memory is lost, in front of all others.

    ``parked``: requests that no replica known to work can hold; they wait beside the others, which they do not hold up.
    """

    view: FaultyView
    retries: Retries

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.parked: list[Sequence] = []
        self._sent: dict[Sequence, Replica] = {}
        self._aborted: set[int] = set()  # rows of requests at replicas, or on their way to or from them
        self._heir: Gate | None = None

    def lose(self, replicas: Iterable[FaultyReplica], down: frozenset[int], by_plan: bool = False) -> None:
        """Let the requests at replicas, and those on their way there, wait in front; ``down``: all known to be."""
        now = self.kernel.now_ns
        self.leave_out(down)
        for sequence in sorted(self._lost_with(list(replicas)), key=lambda one: one.row, reverse=True):
            sequence.queue_ns += now - sequence.since_ns
            sequence.since_ns = now
            del self.active[sequence.row]
            if sequence.row in self._aborted:
                self._fail(sequence, FailureCause.GIVEN_UP)
            elif not self.retries.lose(sequence, by_plan):
                self._fail(sequence, FailureCause.RETRIES)
            else:
                self._take_back(sequence, by_plan)
        self.announced()
        self.try_again()

    def announced(self) -> None:
        """Take note that replicas may have got notice."""

    def leave_out(self, down: frozenset[int]) -> None:
        """Send no requests to replicas from now on."""
        self.view.without(down)

    def _lost_with(self, replicas: list[FaultyReplica]) -> list[Sequence]:
        """Take off what was sent to replicas that are lost; return the requests that are lost with it."""
        lost = []
        for replica in replicas:
            replica.losses += 1
            replica.leaving = []
            lost += [sequence for sequence, owner in self._sent.items() if owner is replica]
            self.view.submitted[replica.number] = self.view.submitted_tokens[replica.number] = 0
            self.view.coming[replica.number].clear()
        for sequence in lost:
            del self._sent[sequence]
        return lost

    def _take_back(self, sequence: Sequence, by_plan: bool) -> None:
        """Let a lost request wait in front, unless it has outgrown all replicas, but for those of a new placement."""
        if by_plan or sequence.target + 1 <= self.view.largest_context_tokens:
            self.waiting.appendleft(sequence)
            return
        self._reject(sequence)
        if self.feed.mode is FeedMode.CLOSED_LOOP:
            self.enter_next(1)

    def _fail(self, sequence: Sequence, cause: FailureCause) -> None:
        self.retries.fail(sequence, cause)
        self.recorder.write(sequence, RequestStatus.FAILED)
        self._aborted.discard(sequence.row)
        is_over = cause is not FailureCause.GIVEN_UP and (self.clients is None or not self.clients.failed(sequence))
        if is_over and self.feed.mode is FeedMode.CLOSED_LOOP:
            self.enter_next(1)

    def enter(self, request: Request) -> None:
        """See ``Gate.enter``."""
        self._arrive(request)

    def _enter(self, request: Request) -> bool:
        has_entered = super()._enter(request)
        if has_entered and self.clients is not None:
            self.clients.sent(self.waiting[-1])
        return has_entered

    def abort(self, sequence: Sequence) -> bool:
        """See ``Gate.abort``."""
        if sequence.row not in self.active:
            return self.withdraw(sequence)
        self._aborted.add(sequence.row)
        if sequence in self._sent:  # else its last token is on its way
            replica = self._sent[sequence]
            assert isinstance(replica, FaultyReplica)
            replica.abort(sequence)
        return True

    def aborted(self, replica: Replica, gone: list[Sequence]) -> None:
        """Take note that sequences have left a replica as their clients have given up."""
        for sequence in gone:
            del self.active[sequence.row]
            self._fail(sequence, FailureCause.GIVEN_UP)
        self._forget(replica, gone)
        if self.waiting:
            self._plan()

    def _finish_all(self, event: Call) -> None:
        late = [sequence for sequence in event.argument if sequence.row in self._aborted]
        if late:
            now = self.kernel.now_ns
            event.argument[:] = [sequence for sequence in event.argument if sequence.row not in self._aborted]
            self.delivering -= len(late)
            for sequence in late:
                sequence.network_ns += now - sequence.since_ns
                del self.active[sequence.row]
                self._fail(sequence, FailureCause.GIVEN_UP)
        super()._finish_all(event)

    def try_again(self) -> None:
        """See ``Parking.try_again``."""
        self._unpark()
        if self.waiting:
            self._plan()

    def hand_over(self, heir: Gate) -> list[Sequence]:
        """Return the requests that wait, which do so no longer; those to come enter at another gate."""
        self._heir = heir
        heir.take_source(self._source)
        return self._take_all()

    def take_source(self, source: LoadSource) -> None:
        """See ``Gate.take_source``."""
        self._source = source
        source.redirect(self._arrive)

    def enter_next(self, count: int) -> None:
        """See ``Gate.enter_next``."""
        if self._heir is None:
            self._launch(count)
        else:
            self._heir.enter_next(count)

    def adopt(self, requests: list[Sequence]) -> None:
        """See ``Gate.adopt``."""
        for sequence in requests:
            if sequence.target + 1 > self.view.largest_context_tokens:
                self._reject(sequence)
                if self.feed.mode is FeedMode.CLOSED_LOOP:
                    self._launch_next()
            else:
                self.waiting.append(sequence)
        self.try_again()

    def _go_on(self, ended: int) -> None:
        if self._heir is None:
            super()._go_on(ended)
        elif self.feed.mode is FeedMode.CLOSED_LOOP:  # these have ended before another system began
            self._heir.enter_next(ended)

    def _route(self) -> None:
        if self.view.down:
            self.parked += [sequence for sequence in self.waiting if not self._has_place(sequence)]
            self.waiting = deque([sequence for sequence in self.waiting if self._has_place(sequence)])
        super()._route()
        if self.waiting or self.parked:
            self.retries.watch()

    def _has_place(self, sequence: Sequence) -> bool:
        """Whether replicas that are not left out could hold a request."""
        return sequence.target + 1 <= self.view.live_context_tokens

    def _give_up(self, sequence: Sequence) -> None:
        """Park a request that the policy cannot route while replicas are down."""
        if self.view.down:
            self.parked.append(sequence)
        else:
            super()._give_up(sequence)

    def _resume(self, replica: Replica, sequence: Sequence) -> int:
        """Return the tokens of a request that is sent to a replica which need not be computed there."""
        return 0

    def _book(self, replica: Replica, sequence: Sequence) -> None:
        self.retries.sent(sequence, self._resume(replica, sequence))
        self._sent[sequence] = replica
        super()._book(replica, sequence)

    def _forget(self, replica: Replica, left: list[Sequence]) -> None:
        super()._forget(replica, left)
        for sequence in left:
            del self._sent[sequence]

    def rejected(self, replica: Replica, outgrown: list[Sequence]) -> None:
        """See ``Listener.rejected``."""
        assert isinstance(replica, FaultyReplica)
        replica.leaving = [sequence for sequence in replica.leaving if sequence not in outgrown]
        if gone := [sequence for sequence in outgrown if sequence.row in self._aborted]:
            self.aborted(replica, gone)
            outgrown = [sequence for sequence in outgrown if sequence not in gone]
        super().rejected(replica, outgrown)


class FaultyReplicaSystem(ReplicaSystem):
    """Replicas that can fail (``faults.FaultySystem``), their frontend and links."""

    stage_kind = FaultyStage
    replica_kind = FaultyReplica
    frontend_kind = FaultyFrontend
    frontend: FaultyFrontend
    replicas: list[FaultyReplica]  # type: ignore[assignment]  # of the kind that it makes

    def __init__(
        self, inputs: SimulationInputs, kernel: Kernel, fabric: NetworkFabric, recorder: Recorder, retries: Retries,
        first_route: int = 0,
    ) -> None:  # fmt: skip
        self.retries = retries
        self._first_route = first_route
        super().__init__(inputs, kernel, fabric, recorder)
        self.gate = self.frontend
        self.frontend.retries = self.retries
        self.retries.waiting, self.retries.give_up = self.frontend.all_waiting, self.frontend.give_up
        self._stopped: set[str] = set()

    def _show(self, of_node: Mapping[int, Any], at_once: bool) -> None:
        self.frontend.view = FaultyView(of_node, at_once)

    def _replica(self, number: int, ids: list[str], recorder: Recorder) -> FaultyReplica:
        made = super()._replica(number, ids, recorder)
        assert isinstance(made, FaultyReplica)
        made.aborted = self.frontend.aborted
        made.scheduler.replica = _Route(self._first_route + number)
        return made

    def _submit(self, replica: Replica, submission: Submission, tokens: int) -> None:
        assert isinstance(replica, FaultyReplica)
        submission.life = replica.losses
        super()._submit(replica, submission, tokens)

    def _of(self, nodes: Iterable[str]) -> list[FaultyReplica]:
        """Return the replicas that have some of these nodes."""
        ids = set(nodes)
        return [replica for replica in self.replicas if any(stage.node_id in ids for stage in replica.stages)]

    def _out(self, out: Outage) -> list[FaultyReplica]:
        """Return the replicas that cannot be used without some nodes and links."""
        return [
            replica
            for replica in self.replicas
            for nodes in [[stage.node_id for stage in replica.stages]]
            if not out.nodes.isdisjoint(nodes) or out.cuts_route(nodes)
        ]

    def _numbers(self, out: Outage) -> frozenset[int]:
        return frozenset(replica.number for replica in self._out(out))

    def stop(self, nodes: Iterable[str]) -> None:
        """See ``FaultySystem.stop``."""
        self._stopped |= set(nodes)
        for replica in self._of(nodes):
            replica.stop()

    def lose(self, lost: Outage, known: Outage, by_plan: bool = False) -> None:
        """See ``FaultySystem.lose``, ``Retries.lose``; a replica stops when one of its links is known to be cut."""
        for replica in self._out(Outage(cuts=lost.cuts)):
            if not replica.is_down:
                replica.stop()
        self.frontend.lose(self._out(lost), self._numbers(known), by_plan)

    def join(self, nodes: Iterable[str], known: Outage) -> None:
        """See ``FaultySystem.join``."""
        self._stopped -= set(nodes)
        down = self._numbers(Outage(frozenset(self._stopped), known.cuts))
        for replica in self.replicas:
            replica.is_down = replica.number in down
        self.frontend.leave_out(self._numbers(known))
        self.frontend.try_again()

    def slow(self, nodes: Iterable[str], factor: float) -> None:
        """See ``FaultySystem.slow``."""
        for replica in self._of(nodes):
            for node in nodes:
                replica.slow(node, factor)

    def copied(self) -> CopyStats | None:
        """See ``FaultySystem.copied``."""
        return None

    def reroute(self, policy: RoutingPolicy) -> None:
        """See ``FaultySystem.reroute``."""
        self.frontend.policy = policy
        self.frontend.try_again()

    @property
    def num_waiting(self) -> int:
        """See ``System.num_waiting``."""
        return super().num_waiting + len(self.frontend.parked)

    @property
    def is_drained(self) -> bool:
        """See ``System.is_drained``."""
        return super().is_drained and not self.frontend.parked

    def unfinished(self, now_ns: int) -> Iterator[tuple[Sequence, RequestStatus]]:
        """See ``System.unfinished``."""
        yield from super().unfinished(now_ns)
        for sequence in self.frontend.parked:
            yield sequence, RequestStatus.WAITING
