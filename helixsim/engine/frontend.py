"""The coordinator of a system of replicas: requests come in, are routed at once, and their tokens come out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence

from helixsim.domain.request import Feed, FeedMode, Request
from helixsim.domain.result import RequestStatus
from helixsim.engine.kernel import Call, Kernel, Priority
from helixsim.engine.load_source import LoadSource
from helixsim.engine.recorder import Recorder
from helixsim.engine.replica import Replica
from helixsim.engine.sequences import Sequence as Running
from helixsim.engine.stage import Submission
from helixsim.errors import SimulationError
from helixsim.routing.base import Hop, RoutingPolicy

Submit = Callable[[Replica, Submission, int], None]


class ReplicaView:
    """The replicas as routing policies see them (a ``RoutingView``), for one request at a time.

    A replica fits if it could ever hold the request; under saturation, if it could admit it at once.
    """

    def __init__(self, of_node: Mapping[int, Replica], at_once: bool) -> None:
        self._of = of_node
        routes: dict[Replica, list[tuple[int, int, int]]] = {}
        for node, replica in of_node.items():  # in the order of their stages
            held = replica.stages[len(routes.setdefault(replica, []))].range
            routes[replica].append((node, held.start, held.end))
        self._of_route = {tuple(route): replica for replica, route in routes.items()}
        self._at_once = at_once
        self._sequence: Running
        self.largest_context_tokens = max(replica.capacity_tokens for replica in of_node.values())
        count = max(replica.number for replica in of_node.values()) + 1
        self.submitted = [0] * count
        self.submitted_tokens = [0] * count
        self.coming: list[list[Running]] = [[] for _ in range(count)]

    def consider(self, sequence: Running) -> None:
        """Make a request the one the view is about."""
        self._sequence = sequence

    def fits(self, hop: Hop) -> bool:
        """See ``RoutingView.fits``."""
        replica = self._of[hop.node]
        if self._sequence.target + 1 > replica.capacity_tokens:
            return False
        return not self._at_once or replica.could_admit(self._sequence, self.coming[replica.number])

    def queue_length(self, node: int) -> int:
        """See ``RoutingView.queue_length``: with those on their way, as several may come at one instant."""
        replica = self._of[node]
        return len(replica.scheduler.queue) + len(self.coming[replica.number])

    def prompt_backlog(self, node: int) -> int:
        """See ``RoutingView.prompt_backlog``: with those on their way; what a prefix cache has of them counts too."""
        replica = self._of[node]
        coming = self.coming[replica.number]
        return replica.scheduler.pending_tokens + sum([sequence.target for sequence in coming])

    def in_flight(self, node: int) -> int:
        """See ``RoutingView.in_flight``."""
        return self.submitted[self._of[node].number]

    def in_flight_tokens(self, node: int) -> int:
        """See ``RoutingView.in_flight_tokens``: prompts of all submitted requests, and what the running ones have."""
        replica = self._of[node]
        return self.submitted_tokens[replica.number] + replica.generated_tokens

    def kv_usage(self, node: int) -> float:
        """See ``RoutingView.kv_usage``."""
        replica = self._of[node]
        replica.book()
        return replica.kv_usage

    def transfer_ns(self, node: int) -> float:
        """See ``RoutingView.transfer_ns``."""
        return 0.0

    def cached_tokens(self, node: int) -> int:
        """See ``RoutingView.cached_tokens``."""
        replica = self._of[node]
        if not replica.scheduler.rules.caches_prefixes:
            return 0
        replica.book()  # the blocks that its steps have taken may have been cached ones
        return replica.scheduler.cached_tokens(self._sequence)

    def replica_of(self, hops: Sequence[Hop], policy: str) -> Replica:
        """Return the replica of a route.

        Raises
        ------
        SimulationError
            If it is not the whole of one, or its memory could never hold the request.
        """
        nodes = tuple([(hop.node, hop.start, hop.end) for hop in hops])
        replica = self._of_route.get(nodes)
        if replica is None:
            raise SimulationError(f"routing policy {policy} returned a broken route: {list(hops)}")
        if not self.fits(hops[0]):
            raise SimulationError(f"routing policy {policy} returned a route that does not fit: {list(hops)}")
        return replica


class Frontend:
    """Feeds requests to replicas and writes them down when they end.

    ``waiting``: requests the policy has found no replica for yet. ``submit`` sends a request over the link to a
    replica. ``view`` is set when all replicas exist, as they report to the frontend.
    """

    view: ReplicaView
    kind: type[Running] = Running

    def __init__(
        self,
        kernel: Kernel,
        policy: RoutingPolicy,
        feed: Feed,
        recorder: Recorder,
        max_context_tokens: int,
        expected_output_tokens: float,
        submit: Submit,
    ) -> None:
        self.kernel = kernel
        self.policy = policy
        self.feed = feed
        self.recorder = recorder
        self.max_context_tokens = max_context_tokens
        self._expected_tokens = max(round(expected_output_tokens), 1)
        self.submit = submit
        self.waiting: deque[Running] = deque()
        self.active: dict[int, Running] = {}
        self.prefilling = 0
        self.delivering = 0
        self.truncated_outputs = 0
        self._source = LoadSource(kernel, feed, self._arrive)
        self._standing: Running | None = None
        self._is_planned = False

    # Arrivals -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Let the first requests in."""
        if self.feed.mode is FeedMode.OPEN:
            self._source.plan_next_arrival()
        elif self.feed.mode is FeedMode.CLOSED_LOOP:
            self._launch(self.feed.concurrency or 0)
        self._plan()

    def _arrive(self, request: Request) -> None:
        self._enter(request)
        if self.waiting:
            self._plan()

    def _enter(self, request: Request) -> bool:
        """Write down an arrival and let it wait for a replica; False if none can ever hold it."""
        now = self.kernel.now_ns
        room = self.max_context_tokens - request.prompt_tokens
        is_saturated = self.feed.mode is FeedMode.SATURATE
        # In a saturated system the next request stands ready for ever: it arrives when it is submitted.
        row = -1 if is_saturated else self.recorder.add(request, now)
        sequence = self.kind(request, now, row, min(request.output_tokens, room))
        if room < 1 or request.prompt_tokens + 1 > self.view.largest_context_tokens:
            self._reject(sequence)
            return False
        self.truncated_outputs += room < request.output_tokens
        if is_saturated:
            self._standing = sequence
        else:
            self.waiting.append(sequence)
        return True

    def _launch_next(self) -> None:
        """Let the next request that can be served at all arrive now (closed loop and saturation)."""
        self._source.launch_next(self._enter, self._nowhere)

    def _nowhere(self) -> str:
        return f"fit no replica: the largest context that one can hold is {self.view.largest_context_tokens} tokens"

    def _saturate(self) -> None:
        """Submit requests as long as a replica can admit them at once and few enough prompts are under way."""
        limit = self.feed.prompts_in_flight
        while limit is None or self.prefilling < limit:
            if self._standing is None:
                self._launch_next()
            if self._standing is None or not self._send(self._standing):
                return
            self._standing = None

    def _launch(self, count: int) -> None:
        """Let the next ``count`` requests of a closed loop arrive."""
        for _ in range(count):
            self._launch_next()

    def _plan(self, priority: Priority = Priority.COORDINATE) -> None:
        """Route once all that happens at this instant has happened."""
        if self._is_planned:
            return
        if self.kernel.is_instant_over:
            self.kernel.pass_on(priority)
            self._act(None)
        else:
            self._is_planned = True
            self.kernel.call_in(0, priority, self._act, None)

    def _act(self, _event: Call | None) -> None:
        self._is_planned = False
        if self.feed.mode is FeedMode.SATURATE:
            self._saturate()
        elif self.waiting:
            self._route()

    def _route(self) -> None:
        """Submit those that wait for a replica, first come first served.

        Raises
        ------
        SimulationError
            If the policy finds no replica for a thousand requests in a row, while nothing runs.
        """
        refused = 0
        while self.waiting:
            if self._send(self.waiting[0]):
                self.waiting.popleft()
            elif self.active:
                return
            elif refused == 1000:
                raise SimulationError(f"{type(self.policy).__name__} has routed none of 1000 requests in a row")
            else:
                refused += 1
                self._give_up(self.waiting.popleft())

    def _give_up(self, sequence: Running) -> None:
        """Reject a request that the policy cannot route even to idle replicas."""
        self._reject(sequence)
        if self.feed.mode is FeedMode.CLOSED_LOOP:
            self._launch_next()

    def _send(self, sequence: Running) -> bool:
        """Route a request and send it off; False if the policy finds no replica for it now."""
        prompt = sequence.target
        expected = prompt + self._expected_tokens
        self.view.consider(sequence)
        hops = self.policy.route(prompt, expected, self.view)
        if hops is None:
            return False
        self._count(sequence)
        self._dispatch(self.view.replica_of(hops, type(self.policy).__name__), sequence)
        return True

    def _count(self, sequence: Running) -> None:
        """Take note that a request leaves the coordinator."""
        now = self.kernel.now_ns
        if sequence.row < 0:
            sequence.arrival_ns = now
            sequence.row = self.recorder.add(sequence.request, now)
        else:
            sequence.queue_ns += now - sequence.since_ns
        sequence.since_ns = now
        self.active[sequence.row] = sequence
        self.prefilling += 1

    def _dispatch(self, replica: Replica, sequence: Running) -> None:
        """Send a request to a replica."""
        self._book(replica, sequence)
        self.submit(replica, Submission(self.kernel.env, sequence), sequence.target)

    def _book(self, replica: Replica, sequence: Running) -> None:
        view, number = self.view, replica.number
        view.submitted[number] += 1
        view.submitted_tokens[number] += sequence.prompt_tokens
        view.coming[number].append(sequence)

    def arrived(self, replica: Replica, sequence: Running) -> None:
        """Take note that a request has reached its replica."""
        self.view.coming[replica.number].remove(sequence)

    # Ends -----------------------------------------------------------------------------------------------------------

    def went_on(self, replica: Replica, started: int, ended: list[Running]) -> None:
        """See ``Listener.went_on``."""
        self.prefilling -= started
        if ended:
            self.delivering += len(ended)
            self._deliver(replica, self._finish_all, ended)
        self._forget(replica, ended)

    def formed(self) -> None:
        """See ``Listener.formed``."""
        if self.feed.mode is FeedMode.SATURATE:
            self._plan(Priority.REFILL)

    def rejected(self, replica: Replica, outgrown: list[Running]) -> None:
        """See ``Listener.rejected``: they wait for nothing from now on, also before the client knows."""
        for sequence in outgrown:
            self._reject(sequence)
        self._deliver(replica, self._refused, outgrown)
        self._forget(replica, outgrown)

    def _forget(self, replica: Replica, left: list[Running]) -> None:
        """Count requests that have left a replica, and submit others to it under saturation."""
        for sequence in left:
            self.view.submitted[replica.number] -= 1
            self.view.submitted_tokens[replica.number] -= sequence.prompt_tokens
        if self.feed.mode is FeedMode.SATURATE:
            self._plan()

    def _deliver(self, replica: Replica, function: Callable[[Call], None], argument: object) -> None:
        self.kernel.call_in(replica.delivery_ns, Priority.DELIVER, function, argument)

    def _finish_all(self, event: Call) -> None:
        now = self.kernel.now_ns
        self.delivering -= len(event.argument)
        for sequence in event.argument:
            sequence.network_ns += now - sequence.since_ns
            self.recorder.write(sequence, RequestStatus.FINISHED, now)
            del self.active[sequence.row]
        self._go_on(len(event.argument))

    def _refused(self, event: Call) -> None:
        self._go_on(len(event.argument))

    def _go_on(self, ended: int) -> None:
        """Let the next requests of a closed loop in, and those that wait for an end."""
        if self.feed.mode is FeedMode.CLOSED_LOOP:
            self._launch(ended)
        if self.waiting:
            self._plan()

    def _reject(self, sequence: Running) -> None:
        if sequence.row < 0:
            sequence.row = self.recorder.add(sequence.request, self.kernel.now_ns)
        self.active.pop(sequence.row, None)
        self.recorder.write(sequence, RequestStatus.REJECTED)
