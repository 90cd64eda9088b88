"""The machine where requests enter and tokens leave: arrivals, admission, steps, preemption.

A request is prefilled along its route, then goes round it once per further output token. Between two steps it is at
the coordinator: there it gets the KV block its next token needs, or is preempted, or finishes.
"""

from __future__ import annotations

from collections import deque
from itertools import count, pairwise

from helixsim.domain.cluster import COORDINATOR
from helixsim.domain.request import Feed, FeedMode, Request
from helixsim.domain.result import RequestStatus
from helixsim.engine.admission import Admission
from helixsim.engine.kernel import Kernel, Priority, Timer
from helixsim.engine.kvcache import KvPool
from helixsim.engine.load_source import LoadSource
from helixsim.engine.network import NetworkFabric
from helixsim.engine.recorder import Recorder
from helixsim.engine.state import ActiveRequest, Cohort, Parcel, Path, Sender, Stage
from helixsim.engine.worker import Worker
from helixsim.errors import SimulationError
from helixsim.routing.base import Hop, RoutingPolicy


class Coordinator:
    """Feeds requests in, sends them round their routes and writes them down when they end.

    ``first_route``: number of its first route among those of the run.
    """

    first_route = 0

    def __init__(
        self,
        kernel: Kernel,
        fabric: NetworkFabric,
        workers: list[Worker],
        admission: Admission,
        policy: RoutingPolicy,
        feed: Feed,
        recorder: Recorder,
        max_context_tokens: int,
    ) -> None:
        self.kernel = kernel
        self.fabric = fabric
        self.workers = workers
        self.pools: list[KvPool] = list(admission.pools)
        self.admission = admission
        self.policy = policy
        self.feed = feed
        self.recorder = recorder
        self.max_context_tokens = max_context_tokens
        self.paths: dict[tuple[Hop, ...], Path] = {}
        self.waiting: deque[ActiveRequest] = deque()
        self.ends_ns = -1  # it takes in what comes at once
        self.running = 0
        self.prefilling = 0
        self.preemptions_by_node = [0] * len(workers)
        self.truncated_outputs = 0
        self._source = LoadSource(kernel, feed, self._enqueue)
        self._inbox: list[Cohort] = []
        self._stalled: list[ActiveRequest] = []
        self._leaving: dict[int, Cohort] = {}
        self._starting: list[ActiveRequest] = []
        self._departures = 0
        self._admission_order = count()
        self._coordinate_pending = False
        self._coordination = Timer(kernel, Priority.COORDINATE, self._coordinate)
        self._admission_may_succeed = True
        self._chances = feed.prompts_in_flight or 0

    # Arrivals -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Let the first requests in."""
        if self.feed.mode is FeedMode.OPEN:
            self._source.plan_next_arrival()
        elif self.feed.mode is FeedMode.CLOSED_LOOP:
            for _ in range(self.feed.concurrency or 0):
                self._launch_next()
        self._plan_coordinate()

    def _launch_next(self) -> None:
        """Let the next request that can be served at all arrive now (closed loop and saturation)."""
        self._source.launch_next(self._enqueue, self._nowhere)

    def _nowhere(self) -> str:
        most = self.admission.largest_context_tokens
        return f"fit no route: the largest context any route can hold is {most} tokens"

    def _enqueue(self, request: Request) -> bool:
        """Write down an arrival and let it wait for admission; False if it can never be served."""
        now = self.kernel.now_ns
        # In a saturated system the next request stands ready for ever: it arrives when it is admitted.
        row = -1 if self.feed.mode is FeedMode.SATURATE else self.recorder.add(request, now)
        room = self.max_context_tokens - request.prompt_tokens
        active = ActiveRequest(request, now, row, min(request.output_tokens, room))
        if room < 1 or request.prompt_tokens + 1 > self.admission.largest_context_tokens:
            self._reject(active)
            return False
        self.truncated_outputs += room < request.output_tokens
        self.waiting.append(active)
        if len(self.waiting) == 1:
            self._admission_may_succeed = True
            self._plan_coordinate()
        return True

    @property
    def num_waiting(self) -> int:
        """Requests that have arrived and wait for admission, without the one that stands ready under saturation."""
        return len(self.waiting) - (bool(self.waiting) and self.waiting[-1].row < 0)

    # Steps ----------------------------------------------------------------------------------------------------------

    def receive(self, parcel: Parcel) -> None:
        """Take in cohorts whose step has ended."""
        parcel.settle()
        self._inbox += parcel.cohorts
        if self._coordinate_pending or not self.kernel.is_instant_over:
            self._plan_coordinate()
        else:
            self._coordinate_pending = True
            self._coordinate(None)

    def _plan_coordinate(self) -> None:
        """Act once, after everything of this instant has arrived."""
        if not self._coordinate_pending:
            self._coordinate_pending = True
            self._coordination.arm(0)

    def _coordinate(self, _event: Timer | None) -> None:
        inbox, self._inbox = self._inbox, []
        if len(inbox) > 1:
            inbox.sort(key=lambda cohort: cohort.number)
        growing: list[ActiveRequest] = []
        for cohort in inbox:
            self._take_tokens(cohort, growing)
        if growing or self._stalled:
            self._grow(growing)
        if self._admission_may_succeed and not self._stalled:
            self._admit()
        self._send_steps()
        self._coordinate_pending = False

    def _take_tokens(self, cohort: Cohort, growing: list[ActiveRequest]) -> None:
        """Hand out a token to each request of a cohort; it then finishes, is preempted or goes on to its next step."""
        if cohort.hop != len(cohort.path.stages):
            raise SimulationError(f"INV-5: a step came back after {cohort.hop} of {len(cohort.path.stages)} stages")
        now = self.kernel.now_ns
        requests = cohort.requests
        if cohort.is_prefill:
            self._end_prefill(requests[0])
        queue_ns, compute_ns, spread_ns = cohort.queue_ns, cohort.compute_ns, cohort.spread_ns
        self.recorder.output_tokens += len(requests)
        due: list[ActiveRequest] = []
        gap_ns, gaps = -1, 0
        for request in requests:
            request.queue_ns += queue_ns
            request.compute_ns += compute_ns
            queue_ns -= spread_ns
            request.generated = generated = request.generated + 1
            if now - request.last_token_ns != gap_ns:
                self.recorder.count_gaps(gap_ns, gaps, now)
                gap_ns, gaps = now - request.last_token_ns, 0
            gaps += 1
            request.last_token_ns = now
            if generated >= request.due_tokens:
                due.append(request)
        self.recorder.count_gaps(gap_ns, gaps, now)
        context = cohort.context_tokens + len(requests)
        if due:
            requests = [request for request in requests if request.generated < request.due_tokens]
            context = sum([request.prompt_tokens + request.generated for request in requests])
            for request in due:
                self._attend(request, growing)
        if requests:
            self._rejoin(cohort.path, requests, context)

    def _end_prefill(self, request: ActiveRequest) -> None:
        self.prefilling -= 1
        self._chances += 1
        self._admission_may_succeed = True
        if not request.generated:
            request.first_token_ns = self.kernel.now_ns
            request.last_token_ns = request.first_token_ns + 1  # no gap in front of the first token: it is -1 ns
            self.recorder.take_first_token(request, request.first_token_ns)

    def _attend(self, request: ActiveRequest, growing: list[ActiveRequest]) -> None:
        """Handle a request for which its next token is not just another one."""
        if request.generated >= request.output_tokens:
            self._finish(request)
        elif request.preempt_for is not None:
            self._preempt(request, request.preempt_for)
        else:
            growing.append(request)

    def _rejoin(self, path: Path, requests: list[ActiveRequest], context_tokens: int) -> None:
        """Let requests leave for their next step, together with others on their path."""
        cohort = self._leaving.get(path.number)
        if cohort is None:
            self._leaving[path.number] = Cohort(0, path, requests, False, len(requests), context_tokens)
        else:
            cohort.requests += requests
            cohort.tokens += len(requests)
            cohort.context_tokens += context_tokens

    def _finish(self, request: ActiveRequest) -> None:
        self.recorder.write(request, RequestStatus.FINISHED, self.kernel.now_ns)
        self._release(request)
        self._chances += 1
        self._replace()

    def _replace(self) -> None:
        """Let the next request of a closed loop in, as one has left for good."""
        if self.feed.mode is FeedMode.CLOSED_LOOP:
            self._launch_next()

    def _release(self, request: ActiveRequest) -> None:
        """Free the request's KV memory everywhere."""
        assert request.path is not None
        for stage in request.path.stages:
            self.pools[stage.worker].release(request, stage.layers)
        self.running -= 1
        self._admission_may_succeed = True

    def _send_steps(self) -> None:
        """Send all that is ready on its way: decode steps grouped by first node, then prompts one by one."""
        env = self.kernel.env
        groups: dict[Sender, list[Cohort]] = {}
        for cohort in self._leaving.values():
            cohort.number = self._departures
            self._departures += cohort.tokens
            groups.setdefault(cohort.path.back, []).append(cohort)
        for channel, cohorts in groups.items():
            tokens = sum([cohort.tokens for cohort in cohorts])
            channel.send(Parcel(env, cohorts, tokens), tokens)
        for request in self._starting:
            path = request.path
            assert path is not None
            tokens = request.context_tokens
            cohort = Cohort(self._departures, path, [request], True, tokens, tokens)
            self._departures += 1
            path.channels[0].send(Parcel(env, [cohort], tokens, is_prefill=True), tokens)
        self._leaving, self._starting = {}, []

    # KV memory ------------------------------------------------------------------------------------------------------

    def _grow(self, growing: list[ActiveRequest]) -> None:
        """Give each request its next KV block, oldest first; where memory is short, preempt the youngest."""
        now = self.kernel.now_ns
        queue = sorted(self._stalled + growing, key=lambda request: request.order)
        self._stalled = []
        for request in queue:
            request.is_held = True
        for request in queue:
            if request.path is None:
                continue  # preempted a moment ago for the sake of an older one
            if self._extend(request):
                request.is_held = False
                request.queue_ns += now - request.at_coordinator_since_ns
                request.moved_on_ns = now
                self._rejoin(request.path, [request], request.context_tokens)
            elif request.is_held:
                self._stalled.append(request)

    def _extend(self, request: ActiveRequest) -> bool:
        """Add one block on every node of the path; False if the request must wait, or was itself preempted."""
        assert request.path is not None
        stages, pools = request.path.stages, self.pools
        while full := [s for s in stages if pools[s.worker].used + s.layers > pools[s.worker].capacity]:
            worker = full[0].worker
            victim = pools[worker].youngest()
            if not victim.is_held:
                victim.preempt_for = worker  # a step of it is on the way; it is stopped when that returns
                victim.due_tokens = 0
                return False
            self._preempt(victim, worker)
            if victim is request:
                return False
        request.blocks += 1
        request.plan_attention(self.admission.block_tokens)
        exceeds = request.blocks > request.reserved_blocks
        request.reserved_blocks += exceeds
        for stage in stages:
            pools[stage.worker].extend(stage.layers, exceeds)
        return True

    def _preempt(self, request: ActiveRequest, worker: int) -> None:
        """Take the request off the cluster; it waits in front of all others and is computed anew (as in vLLM 0.4)."""
        self._release(request)
        self.preemptions_by_node[worker] += 1
        request.path = request.preempt_for = None
        request.is_held = False
        request.preemptions += 1
        if request.context_tokens + 1 > self.admission.largest_context_tokens:
            self._give_up(request)
        else:
            self.waiting.appendleft(request)

    def _give_up(self, request: ActiveRequest) -> None:
        """Reject a request that has outgrown every route, or that its policy cannot route even on an empty cluster."""
        self._reject(request)
        self._replace()

    def _reject(self, request: ActiveRequest) -> None:
        if request.row < 0:
            self._arrive_now(request)
        self.recorder.write(request, RequestStatus.REJECTED)

    def _arrive_now(self, request: ActiveRequest) -> None:
        """Write down the arrival of a request that stood ready outside a saturated system."""
        request.arrival_ns = request.moved_on_ns = self.kernel.now_ns
        request.row = self.recorder.add(request.request, request.arrival_ns)

    # Admission ------------------------------------------------------------------------------------------------------

    def _admit(self) -> None:
        """Admit waiting requests, first come first served, until one does not fit."""
        saturate = self.feed.mode is FeedMode.SATURATE
        feed_below = self.feed.feed_below
        limit = self.feed.prompts_in_flight if feed_below is None else None
        while True:
            if feed_below is not None and not self._takes_chance(feed_below):
                break
            if saturate and not self.waiting:
                self._launch_next()
            if not self.waiting or (saturate and limit is not None and self.prefilling >= limit):
                break
            request = self.waiting[0]
            expected = self.admission.consider(request)
            hops = self.policy.route(request.context_tokens, expected, self.admission)
            if hops is not None:
                self.admission.verify(hops, type(self.policy).__name__)
                self.waiting.popleft()
                self._start_request(request, hops, expected)
            elif self.running == 0:
                self.waiting.popleft()
                self._give_up(request)
            else:
                self._chances = 0
                break
        self._admission_may_succeed = False

    def _takes_chance(self, feed_below: float) -> bool:
        """Use up one of the chances to launch a request; False if there is none, or KV memory is too full."""
        if self._chances and self.admission.expected_use() > feed_below:
            self._chances = 0
        taken = self._chances > 0 or self.running == 0
        self._chances = max(self._chances - 1, 0)
        return taken

    def _start_request(self, request: ActiveRequest, hops: tuple[Hop, ...], expected_tokens: int) -> None:
        now = self.kernel.now_ns
        request.order = next(self._admission_order)
        request.path = self._path(hops)
        request.blocks = self.admission.blocks(request.context_tokens)
        request.reserved_blocks = self.admission.blocks(expected_tokens)
        request.plan_attention(self.admission.block_tokens)
        if request.admitted_ns < 0:
            if request.row < 0:
                self._arrive_now(request)
            request.admitted_ns = now
        else:
            self.recorder.recomputed_tokens += request.context_tokens - 1  # the last token has not been fed in yet
        request.queue_ns += now - request.at_coordinator_since_ns
        request.moved_on_ns = now
        for stage in request.path.stages:
            self.pools[stage.worker].take(request, stage.layers)
        self.running += 1
        self.prefilling += 1
        self._starting.append(request)

    def _path(self, hops: tuple[Hop, ...]) -> Path:
        path = self.paths.get(hops)
        if path is None:
            stages = tuple(Stage(hop.node, hop.start, hop.end, hop.end - hop.start, hop.edge) for hop in hops)
            nodes = [self.workers[hop.node].node_id for hop in hops]
            channels = [self.fabric.channel(src, dst) for src, dst in pairwise([COORDINATOR, *nodes])]
            last, back = self.fabric.returns(nodes[-1], nodes[0])
            longest = min([self.workers[hop.node].longest_chunk for hop in hops])
            number = self.first_route + len(self.paths)
            path = self.paths[hops] = Path(number, stages, (*channels, last), back or channels[0], longest)
            for stage, channel in zip(stages, path.channels[1:], strict=True):
                self.workers[stage.worker].exits[channel] = None
        return path
