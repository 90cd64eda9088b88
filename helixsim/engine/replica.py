"""A replica of a serving engine: a scheduler beside the first of its stages (docs/engine.md).

What a step costs does not depend on the number of sequences in it: those that decode are one group (``sequences``).
While nothing arrives and no prompt is to be computed, a replica of one stage takes all steps up to the next one in
which a sequence ends in one event; what an arrival, a sample or the end of the run finds is computed when it asks.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from typing import Protocol

import numpy as np

from helixsim.domain.result import IntArray
from helixsim.engine.kernel import Call, Kernel, Priority, Timer
from helixsim.engine.recorder import Recorder
from helixsim.engine.rules import Plan, Rules
from helixsim.engine.scheduler import Scheduler
from helixsim.engine.sequences import Decodes, Sequence
from helixsim.engine.stage import Stage, Step

FEWEST_STEPS, MOST_STEPS = 64, 4096
"""Bounds of the steps taken in one event at most: their times are computed beforehand."""


class Listener(Protocol):
    """What a replica reports to, at the time its scheduler knows of it."""

    def arrived(self, replica: Replica, sequence: Sequence) -> None:
        """Take note that a request has reached the replica."""

    def went_on(self, replica: Replica, started: int, ended: list[Sequence]) -> None:
        """Take note that so many requests have got their first tokens, and that these have got all of theirs."""

    def formed(self) -> None:
        """Take note that a replica has formed a step: there may be room for others now."""

    def rejected(self, replica: Replica, outgrown: list[Sequence]) -> None:
        """Take note that sequences have left because they have outgrown the replica."""


class Replica:
    """A chain of stages that computes what its scheduler chooses.

    ``capacity_tokens`` are those that its KV memory holds. ``is_fed``: a request stands ready
    whenever there is room for it (saturation). ``return_ns`` takes a token from the last stage to the
    scheduler, ``delivery_ns`` from there to the client. ``in_flight`` is the number of steps under way, ``generated``
    that of the tokens its unfinished requests have, as far as steps are booked.
    """

    scheduler_kind: type[Scheduler] = Scheduler

    def __init__(
        self,
        number: int,
        kernel: Kernel,
        stages: list[Stage],
        blocks: int,
        block_tokens: int,
        rules: Rules,
        recorder: Recorder,
        listener: Listener,
        return_ns: int,
        delivery_ns: int,
        is_fed: bool = False,
    ) -> None:
        self.number = number
        self._is_fed = is_fed
        self.stages = stages
        self._most_in_flight = len(stages)
        self.scheduler = self.scheduler_kind(self, blocks, block_tokens, rules)
        self.capacity_tokens = blocks * block_tokens
        self.return_ns = return_ns
        self.delivery_ns = delivery_ns
        self.in_flight = 0
        self.generated = 0
        self._kernel = kernel
        self._recorder = recorder
        self._listener = listener
        self._is_woken = False
        self._has_preempted = False
        self._plan: Plan | None = None  # on a replica of one stage: the step it computes, or the first of several
        self._ends_ns: list[int] = []  # ... when these end
        self._times_ns: IntArray = np.zeros(0, np.int64)  # ... and what each takes, where they are several
        self._started_ns = 0
        self._taken = 0  # ... how many have ended and are booked
        self._begun = 0  # ... how many behind the first have begun and are booked
        self._reach = FEWEST_STEPS  # ... how many are computed at once: after an arrival, those behind it are in vain
        self._end = Timer(kernel, Priority.FINISH, self._finish_alone)
        for stage in stages:
            stage.owner = self

    @property
    def kv_usage(self) -> float:
        """Share of the KV memory that running requests hold, 0..1; a replica without KV memory is full."""
        kv = self.scheduler.kv
        return kv.used_blocks / kv.capacity if kv.capacity else 1.0

    @property
    def is_idle_with_work(self) -> bool:
        """Whether it computes nothing though sequences run or could."""
        scheduler = self.scheduler
        if self.in_flight or self._is_woken or scheduler.loading:
            return False
        return bool(scheduler.running or len(scheduler.queue))

    # Requests ---------------------------------------------------------------------------------------------------------

    def arrive(self, sequence: Sequence) -> None:
        """Let a request wait for admission."""
        now = self._kernel.now_ns
        sequence.network_ns += now - sequence.since_ns
        sequence.since_ns = now
        self._listener.arrived(self, sequence)
        is_change = self.scheduler.receive(sequence)
        if self._plan is None:
            self.wake()
        elif is_change:
            self._cut(now)

    # Forming a step ---------------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Form steps once all that happens at this instant has happened, as long as there may be more of them."""
        if self._is_woken or self.in_flight >= self._most_in_flight:
            return
        if self._kernel.is_instant_over:
            self._go_on()
        else:
            self._is_woken = True
            self._kernel.call_in(0, Priority.DISPATCH, self._woken, None)

    def _woken(self, _event: Call) -> None:
        self._is_woken = False
        self._go_on()

    def _go_on(self) -> None:
        """Form steps until as many are in flight as there are stages."""
        scheduler, now = self.scheduler, self._kernel.now_ns
        before = self.in_flight
        self._form_all(scheduler, now)
        if self.in_flight > before:
            self._listener.formed()

    def _form_all(self, scheduler: Scheduler, now: int) -> None:
        while self.in_flight < self._most_in_flight:
            before = scheduler.preemptions
            plan = scheduler.form(now)
            self._has_preempted = scheduler.preemptions != before
            outgrown = scheduler.outgrown
            if scheduler.coming:
                for ready_ns, sequence in scheduler.coming:
                    self._kernel.call_in(ready_ns - now, Priority.FINISH, self._loaded, sequence)
                scheduler.coming = []
            if outgrown:
                scheduler.outgrown = []
                self.generated -= sum([sequence.generated for sequence in outgrown])
                self._listener.rejected(self, outgrown)
            if plan is None:
                if outgrown:
                    continue  # there may be room for others now
                return
            self.in_flight += 1
            if self._most_in_flight > 1:
                self.stages[0].take(Step(self._kernel.env, plan))
            else:
                self._start_alone(plan, now)

    def _loaded(self, event: Call) -> None:
        """Let a prompt go on whose blocks have come from the tiers."""
        now = self._kernel.now_ns
        self.book()
        self.scheduler.take_in(event.argument, now)
        self._change(now)

    def _change(self, now_ns: int) -> None:
        """Let the scheduler have its turn as soon as it can."""
        if self._plan is None:
            self.wake()
        else:
            self._cut(now_ns)

    # Computing it, on one stage ---------------------------------------------------------------------------------------

    def _start_alone(self, plan: Plan, now: int) -> None:
        """Compute a step, and those that will follow it if nothing happens until one of its sequences ends."""
        stage, scheduler = self.stages[0], self.scheduler
        decodes, steps = plan.decodes, 1
        if (
            not plan.chunks
            and decodes.is_even
            and not scheduler.prompts
            and not (scheduler.waiting and self._has_preempted)
            and not (scheduler.reserve.is_falling and (scheduler.waiting or self._is_fed))
        ):
            steps = min(decodes.steps_until_end(), self._reach, scheduler.queue.steps_until_look or MOST_STEPS)
            steps = 1 + decodes.steps_within(1, scheduler.kv.free_blocks, steps - 1)
        if steps == 1:
            self._ends_ns = [now + round(stage.time.ns(plan.shape))]
        else:
            series = stage.time.decode_ns_series(decodes.count, decodes.context, steps)
            self._times_ns = times_ns = np.rint(series, out=series).astype(np.int64)
            ends_ns = times_ns.copy()
            ends_ns[0] += now
            self._ends_ns = ends_ns.cumsum(out=ends_ns).tolist()
        self._plan = plan
        self._started_ns = now
        self._taken = self._begun = 0
        stage.begin(now)
        stage.count(plan.shape, 1)
        self._plan_end(now)

    def _plan_end(self, now_ns: int) -> None:
        self._end.arm(self._ends_ns[-1] - now_ns)

    def _cut(self, now_ns: int) -> None:
        """Let the scheduler have its turn when the step that runs now ends."""
        current = self._steps_begun(now_ns) + 1
        if current < len(self._ends_ns):
            self._reach = max(FEWEST_STEPS, 2 * current)
            del self._ends_ns[current:]
            self._plan_end(now_ns)

    @property
    def generated_tokens(self) -> int:
        """Tokens that its unfinished requests have generated by now."""
        plan = self._plan
        if plan is None:
            return self.generated
        decodes = plan.decodes
        if not decodes.is_even:
            self.book()
            return self.generated
        return self.generated + decodes.count * (bisect_right(self._ends_ns, self._kernel.now_ns) - self._taken)

    def could_admit(self, sequence: Sequence, coming: Iterable[Sequence]) -> bool:
        """See ``Scheduler.could_admit``."""
        self.book()
        return self.scheduler.could_admit(sequence, coming)

    def clear(self) -> None:
        """Forget what the prefix cache holds, as the replica is removed."""
        self.scheduler.kv.clear()

    def book(self) -> None:
        """Book the steps that have ended by now, for those that ask before the last of them has."""
        if self._plan is not None:
            now = self._kernel.now_ns
            self._take_steps(bisect_right(self._ends_ns, now), self._steps_begun(now))

    def _steps_begun(self, now_ns: int) -> int:
        """Return how many steps behind the first have begun; one begins at the end of the instant of an end."""
        count = bisect_right if self._kernel.dispatched_ns == now_ns else bisect_left
        return count(self._ends_ns, now_ns)

    def _take_steps(self, ended: int, begun: int) -> None:
        """Book the first ``ended`` steps, and blocks and start of the ``begun`` behind the first."""
        plan, ends_ns, taken = self._plan, self._ends_ns, self._taken
        assert plan is not None
        decodes = plan.decodes
        more = min(begun, len(ends_ns) - 1) - self._begun
        if more > 0:
            self.scheduler.repeat(decodes, self._begun + 1 - taken, more)
            self.stages[0].count(plan.shape, more)
            self._begun += more
        if ended <= taken:
            return
        began_ns = ends_ns[taken - 1] if taken else self._started_ns
        if decodes.count:
            first = taken
            if ended - first == 1 or decodes.late or decodes.last_ns != began_ns:
                self._take_tokens(decodes, ends_ns[first])
                first += 1
            if first < ended:
                from_ns, to_ns = ends_ns[first] + self.delivery_ns, ends_ns[ended - 1] + self.delivery_ns
                self._recorder.count_gap_run(self._times_ns[first:ended], decodes.count, from_ns, to_ns)
                self._count_tokens(decodes, ended - first, ends_ns[ended - 1])
        decodes.compute_ns += ends_ns[ended - 1] - began_ns
        self._taken = ended

    def _finish_alone(self, _event: Call) -> None:
        plan, ends_ns, now = self._plan, self._ends_ns, self._kernel.now_ns
        if plan is None or ends_ns[-1] != now:
            return  # this end was planned before an arrival
        steps = len(ends_ns)
        self._take_steps(steps, steps)
        self.scheduler.queue.repeat_decodes(steps - 1)
        if steps >= self._reach:
            self._reach = min(2 * self._reach, MOST_STEPS)
        self._plan = None
        self.stages[0].end(now)
        self._complete(plan, 0, now)

    # Taking over its tokens -------------------------------------------------------------------------------------------

    def returned(self, step: Step) -> None:
        """Take over the tokens of a step that has passed all stages."""
        decodes, now = step.plan.decodes, self._kernel.now_ns
        if decodes.count:
            self._take_tokens(decodes, now)
        decodes.compute_ns += step.compute_ns
        decodes.network_ns += step.network_ns + self.return_ns
        self._complete(step.plan, step.network_ns + self.return_ns, now)

    def _take_tokens(self, decodes: Decodes, at_ns: int) -> None:
        """Give each decoding sequence the token, or the tokens, of a step that ends at this time [ns]."""
        recorder, seen_ns, others = self._recorder, at_ns + self.delivery_ns, decodes.count
        if decodes.late:
            late = decodes.count_late()
            others -= len(late)
            for sequence in late:
                recorder.count_gaps(at_ns - sequence.last_token_ns, 1, seen_ns)
        recorder.count_gaps(at_ns - decodes.last_ns, others, seen_ns)
        self._count_tokens(decodes, 1, at_ns)

    def _count_tokens(self, decodes: Decodes, steps: int, last_ns: int) -> None:
        """Count the tokens of steps of which the last one ends at ``last_ns``."""
        decodes.last_ns = last_ns
        tokens = decodes.take_steps(steps)
        self._recorder.output_tokens += tokens
        self.generated += tokens

    def _take_token(self, sequence: Sequence, now: int) -> bool:
        """Give a sequence the token that its prompt ends with; return whether it is its first one."""
        recorder, seen_ns, is_first = self._recorder, now + self.delivery_ns, sequence.first_token_ns < 0
        recorder.output_tokens += 1
        if is_first:
            sequence.first_token_ns = seen_ns
            recorder.take_first_token(sequence, seen_ns)
        else:
            recorder.count_gaps(now - sequence.last_token_ns, 1, seen_ns)
        sequence.last_token_ns = now
        return is_first

    def _complete(self, plan: Plan, network_ns: int, now: int) -> None:
        """Let sequences end, and prompts go over to decoding."""
        self.in_flight -= 1
        decodes = plan.decodes
        ended = decodes.ended() if decodes.count else []
        for sequence, _ in plan.chunks:
            sequence.in_flight -= 1
        started = 0
        for sequence in plan.ending:
            sequence.generated += 1
            sequence.compute_ns += now - sequence.since_ns - network_ns
            sequence.network_ns += network_ns
            self.generated += 1
            started += self._take_token(sequence, now)
            if sequence.generated >= sequence.output_tokens:
                ended.append(sequence)
            else:
                decodes.join(sequence, now)
        scheduler = self.scheduler
        for sequence in ended:
            scheduler.leave(sequence, sequence.context_tokens - 1, now)
            self.generated -= sequence.generated
        if decodes.count:
            ready = scheduler.ready
            if ready is not None and ready.count > decodes.count:
                decodes, ready = ready, decodes
            if ready is not None:
                decodes.take_over(ready)
            scheduler.ready = decodes
        if started or ended:
            self._listener.went_on(self, started, ended)
        self.wake()
