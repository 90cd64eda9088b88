"""A node at work: it queues what arrives, forms batches, computes them and sends them on."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any

from helixsim.batching.base import BatchingPolicy
from helixsim.domain.hardware import BatchLimits
from helixsim.domain.placement import LayerRange
from helixsim.domain.step_time import BatchShape, StepTime, prefill_pairs
from helixsim.engine.kernel import Call, Kernel, Priority, Timer
from helixsim.engine.state import Cohort, Parcel, Sender
from helixsim.engine.token_budget import TokenBudget

_by_arrival = attrgetter("arrived_ns", "number", "past")
_by_number = attrgetter("number")
_by_sending = attrgetter("sent_ns")

Observe = Callable[[int, int, int], None]


class Worker:
    """One placed node.

    ``has_inner_entries``: requests may enter in the middle of its layers (partial inference). ``observe`` is told how
    long each message took from being sent to being computed. ``is_one_by_one``: requests travel one by one, so that
    the first to arrive starts a batch without the others; else those of a batch that go the same way arrive together.
    ``is_order_felt``: what is sent at one instant passes one by one, on a link or on a network card, so that its order
    matters: those that left the coordinator earlier go first. ``budget`` plans steps with prompts where these are cut;
    None: the policy does, with whole prompts.

    ``exits`` are the channels on which paths lead away from here, entered as paths are first used.
    """

    __slots__ = (
        "_batch",
        "_decode_plans",
        "_decode_seqs",
        "_decodes",
        "_env",
        "_finished",
        "_gather_ns",
        "_has_inner_entries",
        "_is_one_by_one",
        "_is_order_felt",
        "_kernel",
        "_limits",
        "_observe",
        "_policy",
        "_prefills",
        "_started_ns",
        "_step_time",
        "batches",
        "budget",
        "busy_ns",
        "decode_tokens",
        "ends_ns",
        "exits",
        "is_busy",
        "is_gathering",
        "node_id",
        "prompt_tokens",
        "range",
    )

    def __init__(
        self,
        node_id: str,
        layer_range: LayerRange,
        step_time: StepTime,
        limits: BatchLimits,
        policy: BatchingPolicy,
        kernel: Kernel,
        observe: Observe | None,
        has_inner_entries: bool,
        is_one_by_one: bool,
        is_order_felt: bool,
        gather_ns: int,
        budget: TokenBudget | None,
    ) -> None:
        self.node_id = node_id
        self.budget = budget
        self.range = layer_range
        self.is_busy = False
        self.busy_ns = 0
        self.batches = 0
        self.prompt_tokens = 0
        self.decode_tokens = 0
        self._step_time = step_time
        self._limits = limits
        self._policy = policy
        self._kernel = kernel
        self._env: Any = kernel.env  # its clock counts integers, and a property in between costs time on the hot path
        self._observe = observe
        self._has_inner_entries = has_inner_entries
        self._is_one_by_one = is_one_by_one
        self._is_order_felt = is_order_felt
        self._gather_ns = gather_ns
        self.is_gathering = False
        self._prefills: list[Parcel] = []
        self._decodes: list[Parcel] = []
        self._decode_seqs = 0
        self._batch: tuple[list[Parcel], list[Parcel]] = ([], [])
        self._started_ns = 0
        self.ends_ns = -1
        self.exits: dict[Sender, None] = {}
        self._finished = Timer(kernel, Priority.FINISH, self._finish)
        self._decode_plans: dict[int, int] = {}

    @property
    def longest_chunk(self) -> int:
        """Most tokens of one prompt in a step; 0: prompts are not cut."""
        return 0 if self.budget is None else self.budget.longest_chunk

    @property
    def queue_length(self) -> int:
        """Requests that have arrived and wait for a batch."""
        now = self._kernel.now_ns
        prefills = sum([parcel.arrived_ns <= now for parcel in self._prefills])
        return prefills + sum([parcel.arrived_by(now) for parcel in self._decodes])

    @property
    def prompt_backlog(self) -> int:
        """Prompt tokens that have arrived and wait for a batch."""
        now = self._kernel.now_ns
        return sum([parcel.tokens for parcel in self._prefills if parcel.arrived_ns <= now])

    def has_ready_work(self, now_ns: int) -> bool:
        """Whether a request that waits for a batch has arrived in full."""
        return any(parcel.arrived_ns <= now_ns for parcel in self._prefills + self._decodes)

    def busy_until(self, now_ns: int) -> int:
        """Return the time spent computing up to now [ns], the running batch's part included."""
        return self.busy_ns + (now_ns - self._started_ns if self.is_busy else 0)

    def receive(self, parcel: Parcel) -> None:
        """Queue a parcel; see ``Receiver.receive``."""
        if parcel.is_prefill:
            arrived = [parcel] if self.budget is None else self.budget.in_order(parcel)
            if not arrived:
                return
            self._prefills += arrived
        else:
            self._decodes.append(parcel)
            self._decode_seqs += parcel.tokens
        if not self.is_busy:
            self._dispatch_at_end_of_instant()

    def _dispatch_at_end_of_instant(self) -> None:
        """Form a batch once all that arrives at this instant, or while the engine gathers, is here."""
        if self._gather_ns:
            if not self.is_gathering:
                self.is_gathering = True
                self._kernel.call_in(self._gather_ns, Priority.DISPATCH, self._dispatch, None)
        elif self._kernel.is_instant_over:
            self._dispatch(None)
        else:
            self._kernel.call_in(0, Priority.DISPATCH, self._dispatch, None)

    def _dispatch(self, _event: Call | None) -> None:
        """Form and start a batch of what has arrived, unless one is running."""
        self.is_gathering = False
        if self.is_busy:
            return
        now = self._env._now
        ready = self._decode_seqs
        if self._is_one_by_one:
            ready = sum([parcel.arrived_by(now) for parcel in self._decodes])
        if not (ready or self._prefills):
            return
        if self._prefills:
            prefills, num_decodes = self._plan_with_prefills(ready)
        else:
            prefills = []
            known = self._decode_plans.get(ready)
            if known is None:
                known = self._decode_plans[ready] = self._policy.plan((), ready, self._limits)[1]
            num_decodes = known
        if num_decodes == self._decode_seqs:
            decodes, self._decodes = self._decodes, []
        else:
            decodes = self._take_arrived(now) if num_decodes == ready else self._take_first(num_decodes, now)
        self._decode_seqs -= num_decodes
        self._batch = (prefills, decodes)
        self.is_busy = True
        self.batches += 1
        self._started_ns = now
        duration_ns = self._duration_ns(prefills, decodes, num_decodes)
        if self.budget is not None and prefills:
            for cohort in self.budget.cut:  # it counts the whole time from its arrival as queue when its last part runs
                cohort.queue_ns -= duration_ns
                cohort.compute_ns += duration_ns
        self.ends_ns = now + duration_ns
        self._finished.arm(duration_ns)

    def _plan_with_prefills(self, ready: int) -> tuple[list[Parcel], int]:
        """Ask the policy what to take; return the prefills, removed from the queue, and the number of decode steps."""
        if len(self._prefills) > 1:
            self._prefills.sort(key=_by_arrival)
        if self.budget is not None:
            chunks, self._prefills, num_decodes = self.budget.plan(self._prefills, ready)
            return chunks, num_decodes
        count, num_decodes = self._policy.plan([parcel.tokens for parcel in self._prefills], ready, self._limits)
        prefills, self._prefills = self._prefills[:count], self._prefills[count:]
        return prefills, num_decodes

    def _take_arrived(self, now_ns: int) -> list[Parcel]:
        """Remove all decode steps that have arrived."""
        taken, kept = [], []
        for parcel in self._decodes:
            count = parcel.arrived_by(now_ns)
            if count == parcel.tokens:
                taken.append(parcel)
                continue
            if count:
                taken.append(parcel.split(count))
            kept.append(parcel)
        self._decodes = kept
        return taken

    def _take_first(self, count: int, now_ns: int) -> list[Parcel]:
        """Remove the ``count`` decode steps that arrived first; at one instant, those that left earlier go first."""
        parcels = [part for parcel in self._decodes for part in parcel.apart()]
        arrived: list[tuple[int, int, int, int]] = []
        for position, parcel in enumerate(parcels):
            at_ns, number, spacing_ns = parcel.arrived_ns, parcel.number, parcel.spacing_ns
            if spacing_ns:
                arrived += [(at_ns + i * spacing_ns, number + i, 1, position) for i in range(parcel.arrived_by(now_ns))]
            else:
                arrived.append((at_ns, number, parcel.tokens, position))
        counts = [0] * len(parcels)
        for _, _, tokens, position in sorted(arrived):
            part = min(count, tokens)
            counts[position] += part
            count -= part
        taken = [
            parcel if part == parcel.tokens else parcel.split(part)
            for parcel, part in zip(parcels, counts, strict=True)
            if part
        ]
        whole = {id(parcel) for parcel in taken}
        self._decodes = [parcel for parcel in parcels if id(parcel) not in whole]
        return taken

    def _duration_ns(self, prefills: list[Parcel], decodes: list[Parcel], seqs: int) -> int:
        """Return how long the batch takes, and count its tokens."""
        self.decode_tokens += seqs
        if prefills:
            self.prompt_tokens += sum([parcel.tokens for parcel in prefills])
        elif len(decodes) == 1 or not self._has_inner_entries:
            context = sum([parcel.context_tokens() for parcel in decodes])
            start = decodes[0].stage.start if self._has_inner_entries else None
            return round(self._step_time.decode_ns(seqs, context, start))
        if self._has_inner_entries:
            return round(self._step_time.ns_of_entries(self._entries(prefills, decodes)))
        return round(self._step_time.ns(_shape(prefills, decodes)))

    def _entries(self, prefills: list[Parcel], decodes: list[Parcel]) -> list[tuple[int, BatchShape]]:
        """Return the layers at which requests enter, with the shape of what enters there.

        All requests run to the node's last layer. Those of a parcel come from one node, so they enter at one layer.
        """
        entries = sorted({parcel.stage.start for parcel in prefills + decodes})
        return [
            (entry, _shape(*([one for one in parcels if one.stage.start == entry] for parcels in (prefills, decodes))))
            for entry in entries
        ]

    def _finish(self, _event: Timer) -> None:
        """Send the finished batch on, decode steps first: they are small and somebody waits for each."""
        now = self._env._now
        self.is_busy = False
        self.ends_ns = -1
        self.busy_ns += now - self._started_ns
        prefills, decodes = self._batch
        if self._observe is not None:
            self._tell(self._observe, prefills + sorted(decodes, key=_by_sending), now)
        if len(decodes) == 1 and len(self.exits) == 1 and not decodes[0].spacing_ns:
            (parcel,), (channel,) = decodes, self.exits
            parcel.pass_whole(self._started_ns - parcel.arrived_ns, now - self._started_ns)
            channel.send(parcel, parcel.tokens)
        elif decodes:
            for channel, cohorts in self._pass_on(decodes, now).items():
                tokens = sum([cohort.tokens for cohort in cohorts]) if len(cohorts) > 1 else cohorts[0].tokens
                channel.send(Parcel(self._env, cohorts, tokens), tokens)
        for parcel in prefills:
            (cohort,) = parcel.cohorts
            cohort.queue_ns += self._started_ns - parcel.arrived_ns
            cohort.compute_ns += now - self._started_ns
            cohort.hop += 1
            is_done = cohort.hop == len(cohort.path.stages)
            if cohort.is_last or not is_done:
                cohort.path.channels[cohort.hop].send(parcel, 1 if is_done else parcel.tokens)
        if self._prefills or self._decodes:
            self._go_on(now)

    def _go_on(self, now_ns: int) -> None:
        """Form the next batch, or come back when the next request has arrived, if all are still on the way."""
        if self._is_one_by_one and not self._prefills:
            first_ns = min([parcel.arrived_ns for parcel in self._decodes])
            if first_ns > now_ns:
                self._kernel.call_in(first_ns - now_ns, Priority.DELIVER, self._wake, None)
                return
        self._dispatch_at_end_of_instant()

    def _wake(self, _event: Call) -> None:
        if not self.is_busy:
            self._dispatch_at_end_of_instant()

    def _pass_on(self, parcels: list[Parcel], now_ns: int) -> dict[Sender, list[Cohort]]:
        """Book the batch on its decode steps, with what they went through as a whole; return them by where they go."""
        started_ns, duration_ns = self._started_ns, now_ns - self._started_ns
        groups: dict[Sender, list[Cohort]] = {}
        for parcel in parcels:
            hops, compute_ns = parcel.hops + 1, parcel.compute_ns + duration_ns
            queue_ns, spacing_ns = parcel.queue_ns + started_ns - parcel.arrived_ns, parcel.spacing_ns
            for cohort in parcel.cohorts:
                cohort.queue_ns += queue_ns
                cohort.compute_ns += compute_ns
                if spacing_ns:
                    cohort.spread_ns += spacing_ns
                    queue_ns -= spacing_ns * cohort.tokens
                cohort.hop = hop = cohort.hop + hops
                channel = cohort.path.channels[hop]
                if channel in groups:
                    groups[channel].append(cohort)
                else:
                    groups[channel] = [cohort]
        if not self._is_order_felt:
            return groups
        for cohorts in groups.values():
            cohorts.sort(key=_by_number)
        return dict(sorted(groups.items(), key=lambda group: group[1][0].number))

    def _tell(self, observe: Observe, parcels: list[Parcel], now_ns: int) -> None:
        """Report how long each message, or the part of it that is in the batch, took from being sent to its end.

        Prompts come first, then steps in the order they were sent: they may have been queued in another. The message of
        a prompt that is cut here ends with its last chunk.
        """
        told: dict[tuple[int, int, int], int] = {}
        for parcel in parcels:
            cohort = parcel.cohorts[0]
            if not (cohort.is_last or cohort.hop):
                continue
            own = cohort.number if parcel.is_prefill else -1
            message = (parcel.stage.edge, parcel.sent_ns, own)
            told[message] = told.get(message, 0) + (1 if parcel.is_prefill else parcel.tokens)
        for (edge, sent_ns, _), requests in told.items():
            observe(edge, now_ns - sent_ns, requests)


def _shape(prefills: list[Parcel], decodes: list[Parcel]) -> BatchShape:
    tokens = [parcel.tokens for parcel in prefills]
    last = sum([parcel.cohorts[0].is_last for parcel in prefills])
    seqs = sum([parcel.tokens for parcel in decodes])
    return BatchShape(
        prefill_tokens=sum(tokens),
        prefill_pairs=sum([prefill_pairs(parcel.tokens, parcel.past) for parcel in prefills]),
        prefill_seqs=len(tokens),
        decode_seqs=seqs,
        decode_context=sum([parcel.context_tokens() for parcel in decodes]),
        sampled=last + seqs,
    )
