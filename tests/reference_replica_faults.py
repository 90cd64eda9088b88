"""The plain engine of replicas with nodes that fail; reactions are static.

What a sequence has waited and been sent by its last token, or by its last arrival, is its ``mark``: all time behind
that is lost with its replica, and counts as waiting.
"""

from __future__ import annotations

import reference_replica
from reference_replica import Reference, Replica, Stage

from helixsim.domain.cluster import COORDINATOR
from helixsim.domain.faults import FaultKind
from helixsim.domain.result import RequestStatus


class FaultyStage(Stage):
    ends = -1

    def receive(self, step):
        if step.life == self.replica.life:
            super().receive(step)

    def look(self):
        was_idle = self.step is None
        super().look()
        if was_idle and self.step is not None:
            self.ends = self.node.busy[-1][1]

    def end(self):
        if self.step is not None and self.ends == self.replica.reference.now:
            super().end()

    def stop(self):
        if self.step is not None:
            self.node.busy[-1] = self.node.busy[-1][0], self.replica.reference.now
        self.step, self.waiting, self.ends = None, [], -1


class FaultyReplica(Replica):
    """``ghosts``: sequences lost since it stopped, of which the coordinator does not know yet."""

    stage_kind = FaultyStage
    is_down, life, losses = False, 0, 0

    def __init__(self, reference, hops):
        super().__init__(reference, hops)
        self.ghosts = []

    def mark(self, sequence):
        sequence.mark = sequence.queue, sequence.network, self.reference.now

    def submit(self, sequence):
        now = self.reference.now
        sequence.queue += now - sequence.since
        sequence.since, sequence.replica = now, self
        self.mark(sequence)
        self.travelling.append(sequence)
        wire, losses = self.reference.wire(COORDINATOR, self.stages[0].node.id), self.losses
        wire.send(sequence.context, lambda one: self.come(one, losses), sequence)

    def come(self, sequence, losses):
        if not self.is_down and losses == self.losses:
            arrival, sequence.arrival = sequence.arrival, sequence.since
            self.receive(sequence)
            sequence.arrival = arrival
            self.mark(sequence)

    def go(self, step):
        step.life = self.life
        super().go(step)

    def take(self, step):
        if step.life == self.life:
            super().take(step)
            for sequence in step.sampled():
                self.mark(sequence)

    def preempt(self, sequence):
        is_unfinished = sequence.is_unfinished
        super().preempt(sequence)
        if is_unfinished:
            self.mark(sequence)

    def look(self):
        if not self.is_down:
            super().look()

    def stop(self):
        self.is_down = True
        self.life += 1
        self.peak = max(self.peak, self.capacity - self.free)
        self.ghosts += self.running + self.waiting + self.unread
        for sequence in self.running:
            sequence.computed = sequence.goal = sequence.in_steps = sequence.held = sequence.reserved = 0
            sequence.yields = []
        self.running, self.waiting, self.unread, self.in_flight, self.parts = [], [], [], [], []
        self.names, self.idle, self.since_read, self.lacking, self.gathering = {}, [], 0, 0, 0
        self.ratio_start, self.ratio_steps = self.first_ratio, 0
        for stage in self.stages:
            stage.stop()

    def lose(self):
        """All that was here or on its way here; the coordinator knows now that it is gone."""
        lost, self.ghosts, self.travelling = self.ghosts + self.travelling, [], []
        self.losses += 1
        now = self.reference.now
        for sequence in lost:
            sequence.queue, sequence.network, since = sequence.mark
            sequence.queue += now - since
            sequence.since, sequence.replica = now, None
        return lost


class FaultyView(reference_replica.View):
    def fits(self, hop):
        replica = self.replica(hop.node)
        size = replica.capacity * replica.block_tokens
        return replica not in self.reference.known and self.sequence.context + 1 <= size

    def in_flight(self, node):
        return super().in_flight(node) + len(self.replica(node).ghosts)

    def in_flight_tokens(self, node):
        replica = self.replica(node)
        here = replica.waiting + replica.unread + replica.running
        return sum(one.context for one in here) + sum(one.prompt for one in replica.travelling + replica.ghosts)


class FaultyReference(Reference):
    replica_kind = FaultyReplica

    def __init__(self, inputs):
        super().__init__(inputs)
        self.line, self.parked, self.known, self.down, self.failures = [], [], [], {}, 0
        self.due = []
        for fault in inputs.faults.faults:
            self.plan(fault.at_ns, self.strike, fault)

    def plan(self, time, function, *arguments):
        self.due.append((time, len(self.due), function, arguments))
        self.call_at(time, lambda: None)

    def happen(self):
        super().happen()
        for one in sorted(one for one in self.due if one[0] == self.now):
            self.due.remove(one)
            one[2](*one[3])

    def of(self, nodes):
        return [r for r in self.replicas if any(stage.node.id in nodes for stage in r.stages)]

    def strike(self, fault):
        if fault.kind is FaultKind.DOWN:
            failing = [node for node in fault.nodes if node not in self.down]
            if failing:
                self.failures += 1
                self.down |= {node: [self.failures, False] for node in failing}
                for replica in self.of(failing):
                    replica.stop()
                self.plan(self.now + self.inputs.faults.detection_ns, self.detect, failing, self.failures)
                if not self.inputs.faults.detection_ns:
                    self.happen()
        else:
            back = [node for node in fault.nodes if node in self.down]
            self.learn([node for node in back if not self.down[node][1]])
            for node in back:
                del self.down[node]
            if back:
                self.know()
                for replica in self.replicas:
                    replica.is_down = replica in self.of(list(self.down))

    def detect(self, nodes, failure):
        self.learn([node for node in nodes if node in self.down and self.down[node] == [failure, False]])

    def learn(self, nodes):
        if nodes:
            for node in nodes:
                self.down[node] = [self.down[node][0], True]
            lost = [sequence for replica in self.of(nodes) for sequence in replica.lose()]
            for sequence in [one for one in lost if one.context + 1 > self.largest]:
                lost.remove(sequence)
                sequence.status = RequestStatus.REJECTED
                self.replace()
            rows = {id(sequence): row for row, sequence in enumerate(self.sequences)}
            self.line = sorted(lost, key=lambda sequence: rows[id(sequence)]) + self.line
            self.know()
            if not self.events or self.events[0][0] > self.now:
                self.coordinate()

    def know(self):
        self.known = self.of([node for node, (_, is_known) in self.down.items() if is_known])
        self.line, self.parked = self.parked + self.line, []

    def coordinate(self):
        self.line, self.arrived = self.line + self.arrived, []
        live = max([r.capacity * r.block_tokens for r in self.replicas if r not in self.known], default=0)
        if live < self.largest:
            self.parked += [sequence for sequence in self.line if sequence.context + 1 > live]
            self.line = [sequence for sequence in self.line if sequence.context + 1 <= live]
        while self.line:
            sequence = self.line[0]
            replica = self.route(sequence)
            if replica is not None:
                self.line.pop(0)
                replica.submit(sequence)
            elif any(s.replica is not None and s.status is RequestStatus.WAITING for s in self.sequences):
                break
            elif self.known:
                self.parked.append(self.line.pop(0))
            else:
                self.line.pop(0).status = RequestStatus.REJECTED
                self.replace()
                self.line, self.arrived = self.line + self.arrived, []

    def route(self, sequence):
        expected = sequence.context + max(self.expected(sequence) - sequence.prompt, 1)
        hops = self.inputs.policy.route(sequence.context, expected, FaultyView(self, sequence))
        return None if hops is None else next(r for r in self.replicas if r.hops == tuple(hops))
