"""The plain engine with nodes that fail: a request that is lost goes on as another object, and the old one is dead.

Messages, queues and batches keep the dead; whoever takes one in drops it. Reactions are static.
"""

from __future__ import annotations

import copy

from reference_engine import Machine, Reference, View

from helixsim.domain.faults import FaultKind
from helixsim.domain.request import FeedMode
from helixsim.domain.result import RequestStatus
from helixsim.engine.kernel import Priority


def is_dead(journey):
    return getattr(journey, "is_dead", False)


class FaultyMachine(Machine):
    is_down, ends = False, -1

    def receive(self, journey):
        if not (self.is_down or is_dead(journey)):
            super().receive(journey)

    def start(self, event):
        self.is_gathering = False
        if self.waiting and self.batch is None:
            super().start(event)

    def duration(self, prefills, decodes):
        compute = super().duration(prefills, decodes)
        self.ends = self.reference.kernel.now_ns + compute
        return compute

    def end(self, event):
        if self.batch is not None and self.ends == self.reference.kernel.now_ns:
            super().end(event)

    def stop(self):
        self.is_down, self.batch, self.waiting = True, None, []


class FaultyView(View):
    def fits(self, hop):
        return hop.node not in self.reference.known and super().fits(hop)


class FaultyReference(Reference):
    """The coordinator: what it learns of failures, and what it does."""

    machine_kind = FaultyMachine
    view_kind = FaultyView

    def __init__(self, inputs):
        super().__init__(inputs)
        self.faults, self.known, self.down, self.failures = list(inputs.faults.faults), set(), {}, 0
        self.parked, self.live_context = [], self.largest_context
        self.lost = 0
        self.next_fault()

    # Faults

    def next_fault(self):
        if self.faults:
            fault = self.faults.pop(0)
            self.kernel.call_in(fault.at_ns - self.kernel.now_ns, Priority.FAULT, self.happen, fault)

    def happen(self, event):
        fault = event.argument
        numbers = [machine.number for node in fault.nodes for machine in self.machines if machine.id == node]
        if fault.kind is FaultKind.DOWN:
            failing = [number for number in numbers if number not in self.down]
            if failing:
                self.failures += 1
                self.down |= dict.fromkeys(failing, self.failures)
                for number in failing:
                    self.machines[number].stop()
                self.kernel.call_in(self.inputs.faults.detection_ns, Priority.FAULT, self.detect, self.failures)
        else:
            back = [number for number in numbers if number in self.down]
            self.learn([number for number in back if number not in self.known])
            for number in back:
                del self.down[number]
                self.machines[number].is_down = False
            if back:
                self.known -= set(back)
                self.know()
        self.next_fault()

    def detect(self, event):
        self.learn([n for n, failure in self.down.items() if failure == event.argument and n not in self.known])

    def learn(self, numbers):
        if not numbers:
            return
        self.known |= set(numbers)
        residents = {id(j): j for number in numbers for j in self.machines[number].residents}
        lost = []
        for journey in sorted(residents.values(), key=lambda journey: journey.order):
            self.leave(journey)
            heir = copy.copy(journey)
            journey.is_dead = True
            self.journeys[self.journeys.index(journey)] = heir
            heir.hops, heir.held, heir.preempt_for, heir.is_prefill, heir.past = None, False, None, False, 0
            heir.queue, heir.compute, heir.network = getattr(journey, "at_token", (0, 0, 0))
            self.lost += 1
            if heir.context + 1 > self.largest_context:
                heir.status = RequestStatus.REJECTED
                self.replace()
            else:
                lost.append(heir)
        self.waiting = [*lost, *self.waiting]
        self.inbox = [journey for journey in self.inbox if not is_dead(journey)]
        self.stalled = [journey for journey in self.stalled if not is_dead(journey)]
        for machine in self.machines:
            machine.waiting = [journey for journey in machine.waiting if not is_dead(journey)]
        self.know()

    def know(self):
        """Count what the nodes that are left can hold, and try to send all that waits."""
        capacities = {number: self.machines[number].capacity for number in self.known}
        for number in self.known:
            self.machines[number].capacity = 0
        self.live_context = self.block_tokens * self.widest(self.inputs.graph.first)
        for number, capacity in capacities.items():
            self.machines[number].capacity = capacity
        self.waiting = [*self.parked, *self.waiting]
        self.parked, self.may_admit = [], True
        self.plan()

    # What the coordinator does otherwise than without failures

    def receive(self, journey):
        if not is_dead(journey):
            super().receive(journey)

    def token(self, journey, growing):
        journey.at_token = journey.queue, journey.compute, journey.network
        super().token(journey, growing)

    def admit(self):
        tall = [journey for journey in self.waiting if journey.context + 1 > self.live_context]
        if tall and self.live_context < self.largest_context:
            self.parked += tall
            self.waiting = [journey for journey in self.waiting if journey not in tall]
        super().admit()

    def give_up(self, journey):
        if self.known and journey.context + 1 <= self.largest_context:
            self.parked.append(journey)
        else:
            super().give_up(journey)

    def run(self):
        assert self.feed.mode is not FeedMode.SATURATE
        return super().run()
