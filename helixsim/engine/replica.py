"""A replica of a serving engine: a scheduler beside the first of its stages (docs/engine.md).

What a step costs does not depend on the number of sequences in it: those that decode are one group (``sequences``).
While nothing arrives and no prompt is to be computed, a replica of one stage takes all steps up to the next one in
which a sequence ends in one event; what an arrival, a sample or the end of the run finds is computed when it asks.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from itertools import accumulate
from typing import Protocol

import numpy as np

from helixsim.engine.kernel import Call, Kernel, Priority
from helixsim.engine.recorder import Recorder
from helixsim.engine.scheduler import Rules, Scheduler
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

    def rejected(self, replica: Replica, outgrown: list[Sequence]) -> None:
        """Take note that sequences have left because they have outgrown the replica."""


class Replica:
    """A chain of stages that computes what its scheduler chooses.

    ``capacity_tokens`` are those that its KV memory holds. ``return_ns`` takes a token from the last stage to the
    scheduler, ``delivery_ns`` from there to the client. ``in_flight`` is the number of steps under way, ``generated``
    that of the tokens its unfinished requests have, as far as steps are booked.
    """

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
    ) -> None:
        self.number = number
        self.stages = stages
        self.scheduler = Scheduler(self, blocks, block_tokens, rules)
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
        self._step: Step | None = None  # on a replica of one stage: the step it computes, or the first of several
        self._ends_ns: list[int] = []  # ... and when these end
        self._started_ns = 0
        self._taken = 0  # ... how many have ended and are booked
        self._reach = FEWEST_STEPS  # ... how many are computed at once: after an arrival, those behind it are in vain
        self._turn = 0  # ... number of the event that ends them: one planned before an arrival is ignored
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
        return not self.in_flight and not self._is_woken and bool(scheduler.running or scheduler.waiting)

    # Requests ---------------------------------------------------------------------------------------------------------

    def arrive(self, sequence: Sequence) -> None:
        """Let a request wait for admission."""
        now = self._kernel.now_ns
        sequence.network_ns += now - sequence.since_ns
        sequence.since_ns = now
        self._listener.arrived(self, sequence)
        self.scheduler.enqueue(sequence)
        if self._step is None:
            self.wake()
        elif len(self.scheduler.waiting) == 1 or self.scheduler.rules.by_priority:
            self._cut(now)

    # Forming a step ---------------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Form steps once all that happens at this instant has happened, as long as there may be more of them."""
        if self._is_woken or self.in_flight >= len(self.stages):
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
        scheduler = self.scheduler
        while self.in_flight < len(self.stages):
            before = scheduler.preemptions
            plan = scheduler.form(self._kernel.now_ns)
            self._has_preempted = scheduler.preemptions != before
            outgrown, scheduler.outgrown = scheduler.outgrown, []
            if outgrown:
                self.generated -= sum([sequence.generated for sequence in outgrown])
                self._listener.rejected(self, outgrown)
            if plan is None:
                if outgrown:
                    continue  # there may be room for others now
                return
            self.in_flight += 1
            step = Step(self._kernel.env, plan)
            if len(self.stages) > 1:
                self.stages[0].take(step)
            else:
                self._start_alone(step)

    # Computing it, on one stage ---------------------------------------------------------------------------------------

    def _start_alone(self, step: Step) -> None:
        """Compute a step, and those that will follow it if nothing happens until one of its sequences ends."""
        stage, scheduler, now = self.stages[0], self.scheduler, self._kernel.now_ns
        decodes, steps = step.plan.decodes, 1
        if (
            decodes.is_even
            and not step.plan.chunks
            and not scheduler.prompts
            and not (scheduler.waiting and self._has_preempted)
        ):
            steps = min(decodes.steps_until_end(), self._reach)
            steps = 1 + decodes.steps_within(1, scheduler.kv.free_blocks, steps - 1)
        if steps == 1:
            times = [round(stage.time.ns(step.plan.shape))]
        else:
            series = stage.time.decode_ns_series(decodes.count, decodes.context, steps)
            times = np.rint(series).astype(np.int64).tolist()
        self._ends_ns = list(accumulate(times, initial=now))
        del self._ends_ns[0]
        self._step = stage.step = step
        self._started_ns = now
        self._taken = 0
        stage.begin(now)
        stage.count(step.plan.shape, 1)
        self._plan_end(now)

    def _plan_end(self, now_ns: int) -> None:
        self._turn += 1
        self._kernel.call_in(self._ends_ns[-1] - now_ns, Priority.FINISH, self._finish_alone, self._turn)

    def _cut(self, now_ns: int) -> None:
        """Let the scheduler have its turn when the step that runs now ends."""
        current = bisect_left(self._ends_ns, now_ns) + 1
        if current < len(self._ends_ns):
            self._reach = max(FEWEST_STEPS, 2 * current)
            del self._ends_ns[current:]
            self._plan_end(now_ns)

    @property
    def generated_tokens(self) -> int:
        """Tokens that its unfinished requests have generated by now."""
        step = self._step
        if step is None:
            return self.generated
        if not step.plan.decodes.is_even:
            self.book()
            return self.generated
        ended = bisect_right(self._ends_ns, self._kernel.now_ns)
        return self.generated + step.plan.decodes.count * (ended - self._taken)

    def could_admit(self, sequence: Sequence, coming: Iterable[Sequence]) -> bool:
        """See ``Scheduler.could_admit``."""
        self.book()
        return self.scheduler.could_admit(sequence, coming)

    def book(self) -> None:
        """Book the steps that have ended by now, for those that ask before the last of them has."""
        if self._step is not None:
            self._take_steps(bisect_right(self._ends_ns, self._kernel.now_ns))

    def _take_steps(self, ended: int) -> None:
        """Book the steps up to the ``ended``-th, and the blocks and the start of the one behind them."""
        step, ends_ns, taken = self._step, self._ends_ns, self._taken
        assert step is not None
        if ended <= taken:
            return
        decodes = step.plan.decodes
        begun = min(ended, len(ends_ns) - 1) - taken
        if begun:
            scheduler = self.scheduler
            scheduler.kv.take(decodes.blocks_due(1, begun))
            scheduler.peak = max(scheduler.peak, scheduler.kv.used_blocks)
            self.stages[0].count(step.plan.shape, begun)
        began_ns = ends_ns[taken - 1] if taken else self._started_ns
        self._take_tokens(decodes, ended - taken, ends_ns[taken:ended])
        decodes.compute_ns += ends_ns[ended - 1] - began_ns
        self._taken = ended

    def _finish_alone(self, event: Call) -> None:
        if event.argument != self._turn:
            return
        step, stage = self._step, self.stages[0]
        assert step is not None
        self._take_steps(len(self._ends_ns))
        if len(self._ends_ns) >= self._reach:
            self._reach = min(2 * self._reach, MOST_STEPS)
        self._step = stage.step = None
        stage.end(self._kernel.now_ns)
        self._complete(step, 0)

    # Taking over its tokens -------------------------------------------------------------------------------------------

    def returned(self, step: Step) -> None:
        """Take over the tokens of a step that has passed all stages."""
        decodes = step.plan.decodes
        self._take_tokens(decodes, 1, [self._kernel.now_ns])
        decodes.compute_ns += step.compute_ns
        decodes.network_ns += step.network_ns + self.return_ns
        self._complete(step, step.network_ns + self.return_ns)

    def _take_tokens(self, decodes: Decodes, steps: int, at_ns: list[int]) -> None:
        """Give each decoding sequence a token at each of these times [ns]."""
        if not decodes.count:
            return
        recorder = self._recorder
        if decodes.late:
            late = decodes.count_late()
            for sequence in late:
                recorder.count_gaps(at_ns[0] - sequence.last_token_ns, 1, at_ns[0] + self.delivery_ns)
            recorder.count_gaps(at_ns[0] - decodes.last_ns, decodes.count - len(late), at_ns[0] + self.delivery_ns)
            if steps > 1:
                recorder.count_gap_run(at_ns[0], at_ns[1:], self.delivery_ns, decodes.count)
        else:
            recorder.count_gap_run(decodes.last_ns, at_ns, self.delivery_ns, decodes.count)
        decodes.last_ns = at_ns[-1]
        tokens = decodes.take_steps(steps)
        recorder.output_tokens += tokens
        self.generated += tokens

    def _complete(self, step: Step, network_ns: int) -> None:
        """Let sequences end, and prompts go over to decoding."""
        now, recorder = self._kernel.now_ns, self._recorder
        self.in_flight -= 1
        decodes = step.plan.decodes
        ended = decodes.ended() if decodes.count else []
        for sequence, _ in step.plan.chunks:
            sequence.in_flight -= 1
        started = 0
        for sequence in step.plan.ending:
            sequence.generated += 1
            sequence.compute_ns += now - sequence.since_ns - network_ns
            sequence.network_ns += network_ns
            recorder.output_tokens += 1
            self.generated += 1
            if sequence.first_token_ns < 0:
                sequence.first_token_ns = now + self.delivery_ns
                recorder.take_first_token(sequence, sequence.first_token_ns)
                started += 1
            else:
                recorder.count_gaps(now - sequence.last_token_ns, 1, now + self.delivery_ns)
            sequence.last_token_ns = now
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
