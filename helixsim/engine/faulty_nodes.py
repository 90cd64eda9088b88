"""Nodes that can fail, and the coordinator that sends their requests again."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from helixsim.domain.faults import FailureCause, Outage
from helixsim.domain.placement import LayerRange
from helixsim.domain.request import Request
from helixsim.domain.result import RequestStatus
from helixsim.engine.coordinator import Coordinator
from helixsim.engine.faults import Gate, Retries
from helixsim.engine.faulty_admission import Detour, FaultyAdmission
from helixsim.engine.faulty_worker import FaultyWorker, Lives
from helixsim.engine.inputs import SimulationInputs
from helixsim.engine.kernel import Kernel, Timer
from helixsim.engine.load_source import LoadSource
from helixsim.engine.network import NetworkFabric
from helixsim.engine.node_system import NodeSystem
from helixsim.engine.parking import Parking
from helixsim.engine.recorder import Recorder
from helixsim.engine.state import ActiveRequest, Parcel
from helixsim.routing.base import Hop, RoutingPolicy


class FaultyCoordinator(Parking[ActiveRequest], Coordinator):
    """A coordinator that sends requests again whose KV memory is lost, in front of all others.

    ``parked``: requests that no route of the nodes known to work can hold; they wait beside the others, which they do
    not hold up, until a node is back.
    """

    lives: Lives
    retries: Retries
    admission: FaultyAdmission

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.parked: list[ActiveRequest] = []
        self._aborted: set[int] = set()  # rows of requests of which a step is under way
        self._at_prompt: set[int] = set()

    @property
    def num_waiting(self) -> int:
        """See ``Coordinator.num_waiting``."""
        return len(self.parked) + len(self.waiting)

    def lose(self, lost: Outage, by_plan: bool = False) -> None:
        """Take the requests on routes over nodes and links off the cluster; they wait for admission in front."""
        gone = set()
        for path in self.paths.values():
            nodes = [self.workers[stage.worker].node_id for stage in path.stages]
            if not lost.nodes.isdisjoint(nodes) or lost.cuts_route(nodes):
                self.lives.first[path.number] = self._departures
                gone.add(path.number)
        self._inbox = [cohort for cohort in self._inbox if self.lives.has(cohort)]
        lost_requests = {
            order: request
            for pool in self.pools
            for order, request in pool.residents.items()
            if request.path is not None and request.path.number in gone
        }
        for request in [lost_requests[order] for order in sorted(lost_requests, reverse=True)]:
            self._take_back(request, by_plan)
        self._stalled = [request for request in self._stalled if request.path is not None]
        self.try_again()

    def enter(self, request: Request) -> object:
        """See ``Gate.enter``."""
        return self._enqueue(request)

    def _enqueue(self, request: Request) -> bool:
        has_entered = super()._enqueue(request)
        if has_entered and self.clients is not None:
            self.clients.sent(self.waiting[-1])
        return has_entered

    def abort(self, request: ActiveRequest) -> bool:
        """See ``Gate.abort``: a request of which a step is under way leaves when that returns."""
        if request.path is None:
            return self.withdraw(request)
        if request.is_held:
            self._stalled.remove(request)
            self._abort(request)
        else:
            request.due_tokens = 0
            self._aborted.add(request.row)
        return True

    def _abort(self, request: ActiveRequest) -> None:
        self._release(request)
        self._fail(request, FailureCause.GIVEN_UP)
        self._plan_coordinate()

    def _attend(self, request: ActiveRequest, growing: list[ActiveRequest]) -> None:
        if request.row in self._aborted:
            self._abort(request)
        else:
            super()._attend(request, growing)

    def _take_back(self, request: ActiveRequest, by_plan: bool) -> None:
        self._release(request)
        if request.row in self._at_prompt:
            self._at_prompt.remove(request.row)
            self.prefilling -= 1
        since_ns = request.at_coordinator_since_ns
        if request.moved_on_ns > since_ns:  # all its time since its last token will be queueing
            request.queue_ns -= request.moved_on_ns - since_ns
            request.moved_on_ns = since_ns
        request.path = request.preempt_for = None
        request.is_held = False
        if request.row in self._aborted:
            self._fail(request, FailureCause.GIVEN_UP)
        elif not self.retries.lose(request, by_plan):
            self._fail(request, FailureCause.RETRIES)
        elif request.context_tokens + 1 > self.admission.largest_context_tokens:
            self._reject(request)
            self._replace()
        else:
            self.waiting.appendleft(request)

    def _fail(self, request: ActiveRequest, cause: FailureCause) -> None:
        self.retries.fail(request, cause)
        self.recorder.write(request, RequestStatus.FAILED)
        self._aborted.discard(request.row)
        if cause is not FailureCause.GIVEN_UP and (self.clients is None or not self.clients.failed(request)):
            self._replace()

    def try_again(self) -> None:
        """See ``Parking.try_again``."""
        self._unpark()
        self._admission_may_succeed = True
        self._plan_coordinate()

    def hand_over(self, heir: Gate) -> list[ActiveRequest]:
        """Return the requests that wait, which do so no longer; those to come enter at another gate."""
        heir.take_source(self._source)
        return self._take_all()

    def take_source(self, source: LoadSource) -> None:
        """See ``Gate.take_source``."""
        self._source = source
        source.redirect(self._enqueue)

    def enter_next(self, count: int) -> None:
        """See ``Gate.enter_next``."""
        for _ in range(count):
            self._launch_next()

    def adopt(self, requests: list[ActiveRequest]) -> None:
        """See ``Gate.adopt``."""
        for request in requests:
            if request.context_tokens + 1 > self.admission.largest_context_tokens:
                self._reject(request)
                self._replace()
            else:
                self.waiting.append(request)
        self.try_again()

    def receive(self, parcel: Parcel) -> None:
        """See ``Coordinator.receive``."""
        parcel.settle()
        parcel.cohorts = [cohort for cohort in parcel.cohorts if self.lives.has(cohort)]
        if parcel.cohorts:
            super().receive(parcel)

    def _coordinate(self, event: Timer | None) -> None:
        super()._coordinate(event)
        if self.waiting or self.parked:
            self.retries.watch()

    def _admit(self) -> None:
        live = self.admission.live_context_tokens
        if live < self.admission.largest_context_tokens:
            tall = [request for request in self.waiting if request.context_tokens + 1 > live]
            if tall:
                self.parked += tall
                self.waiting = deque([request for request in self.waiting if request.context_tokens + 1 <= live])
        super()._admit()

    def _give_up(self, request: ActiveRequest) -> None:
        """Park a request that the policy cannot route while nodes are down."""
        largest = self.admission.largest_context_tokens
        if self.admission.is_reduced and request.context_tokens + 1 <= largest:
            self.parked.append(request)
        else:
            super()._give_up(request)

    def _start_request(self, request: ActiveRequest, hops: tuple[Hop, ...], expected_tokens: int) -> None:
        self.retries.sent(request)
        super()._start_request(request, hops, expected_tokens)
        self._at_prompt.add(request.row)

    def _end_prefill(self, request: ActiveRequest) -> None:
        self._at_prompt.discard(request.row)
        super()._end_prefill(request)


class FaultyNodeSystem(NodeSystem):
    """Nodes that can fail (``faults.FaultySystem``), their coordinator and links."""

    worker_kind = FaultyWorker
    coordinator_kind = FaultyCoordinator
    admission_kind = FaultyAdmission
    coordinator: FaultyCoordinator

    def __init__(
        self, inputs: SimulationInputs, kernel: Kernel, fabric: NetworkFabric, recorder: Recorder, retries: Retries,
        first_route: int = 0,
    ) -> None:  # fmt: skip
        self._lives = Lives()
        super().__init__(inputs, kernel, fabric, recorder)
        self.retries = retries
        coordinator = self.gate = self.coordinator
        coordinator.first_route = first_route
        coordinator.lives, coordinator.retries = self._lives, self.retries
        self.retries.waiting, self.retries.give_up = coordinator.all_waiting, coordinator.give_up
        self._policy = coordinator.policy
        self._numbers = {worker.node_id: number for number, worker in enumerate(self.workers)}

    def _worker(self, node_id: str, held: LayerRange) -> FaultyWorker:
        worker = super()._worker(node_id, held)
        assert isinstance(worker, FaultyWorker)
        worker.is_down, worker.lives, worker.usual_time = False, self._lives, worker._step_time
        return worker

    def _own(self, nodes: Iterable[str]) -> set[int]:
        return {self._numbers[node] for node in nodes if node in self._numbers}

    def _workers(self, nodes: Iterable[str]) -> Iterator[FaultyWorker]:
        for number in sorted(self._own(nodes)):
            worker = self.workers[number]
            assert isinstance(worker, FaultyWorker)
            yield worker

    def stop(self, nodes: Iterable[str]) -> None:
        """See ``FaultySystem.stop``."""
        for worker in self._workers(nodes):
            worker.stop()

    def lose(self, lost: Outage, known: Outage, by_plan: bool = False) -> None:
        """See ``FaultySystem.lose`` and, for ``by_plan``, ``Retries.lose``."""
        self._leave_out(known)
        self.coordinator.lose(lost, by_plan)
        for worker in self._workers(self._numbers):
            worker.forget_lost()

    def join(self, nodes: Iterable[str], known: Outage) -> None:
        """See ``FaultySystem.join``."""
        for worker in self._workers(nodes):
            worker.is_down = False
        self._leave_out(known)
        self.coordinator.try_again()

    def _leave_out(self, known: Outage) -> None:
        self.coordinator.admission.without(self._own(known.nodes), known)
        self._detour()

    def _detour(self) -> None:
        """Route around cut links where the policy chooses between nodes rather than between links."""
        policy, admission = self._policy, self.coordinator.admission
        is_beside = admission.cut and getattr(policy, "is_by_site", False)
        self.coordinator.policy = Detour(policy, admission.graph, admission.cut) if is_beside else policy

    def slow(self, nodes: Iterable[str], factor: float) -> None:
        """See ``FaultySystem.slow``."""
        for worker in self._workers(nodes):
            worker.slow(factor)

    def reroute(self, policy: RoutingPolicy) -> None:
        """See ``FaultySystem.reroute``."""
        self._policy = policy
        self._detour()
        self.coordinator.try_again()

    @property
    def is_drained(self) -> bool:
        """See ``System.is_drained``."""
        return super().is_drained and not self.coordinator.parked

    def unfinished(self, now_ns: int) -> Iterator[tuple[ActiveRequest, RequestStatus]]:
        """See ``System.unfinished``."""
        for request in self._residents().values():
            yield request, RequestStatus.RUNNING
        for request in self.coordinator.all_waiting():
            yield request, RequestStatus.WAITING
