"""The slow engine of replicas with prefill and decode on different ones: the oracle of ``engine.leg_system``.

A request is one sequence on the replica that decodes it and another, its leg, on the one that prefills it. Keys and
values are messages on wires of their own, whose bandwidth is a share of the link's, and which wait on network cards
for all other traffic.
"""

from __future__ import annotations

from reference_replica import Card, Reference, Replica, Sequence, View

from helixsim.domain.request import FeedMode
from helixsim.domain.result import RequestStatus


class Request(Sequence):
    """A request with, perhaps, a leg elsewhere."""

    leg = source = target = None
    missing = 0  # tokens times layers that have not come
    known = 0  # tokens that the side that decodes had in its prefix cache
    prefilled_at = since_kv = -1
    first = 0  # tokens of its prompt that are computed elsewhere
    is_routed = False

    @property
    def is_elsewhere(self):
        """Whether it is known to its leg alone."""
        return self.leg is not None and (self.replica is None or self in self.replica.outside)


class Leg(Sequence):
    """A prompt that is computed for a request elsewhere."""


class PolitePart:
    """What a card has left for keys and values."""

    def __init__(self, ns_per_byte):
        self.ns_per_byte, self.free, self.lost = ns_per_byte, 0, 0


class PoliteCard(Card):
    """A card on which keys and values give way to everything else."""

    def __init__(self, bps, efficiency):
        super().__init__(bps)
        self.kv, self.taken = PolitePart(self.ns_per_byte / efficiency), 0

    def pass_through(self, start, size):
        begin, end = max(start, self.free), super().pass_through(start, size)
        self.taken += end - begin
        if self.kv.free > begin:
            self.kv.free += end - begin
            self.kv.lost += end - begin
        return end

    def last(self, start, size):
        self.kv.free = max(start, self.kv.free) + round(size * self.kv.ns_per_byte)
        return self.kv.free


class KvWire:
    """Keys and values on one direction of a link."""

    def __init__(self, reference, src, dst):
        bps, how = reference.fleet.cluster.link(src, dst).bandwidth_bps, reference.how
        self.reference = reference
        self.ns_per_byte = 8e9 / (bps * how.efficiency)
        self.latency = reference.latency(src, dst) + how.latency_ns
        self.out, self.into = reference.cards_out.get(src), reference.cards_in.get(dst)
        self.free = self.messages = self.bytes = self.waited = 0

    def send(self, size, arrive, what):
        now = self.reference.now
        self.messages += 1
        self.bytes += size
        self.waited += max(self.free - now, 0)
        begin = max(now, self.free)
        self.free = left = begin + round(size * self.ns_per_byte)
        taken = 0

        def look():
            nonlocal taken
            taken = self.into.taken

        def leave():
            self.reference.call_at(self.reference.now + self.latency, come)

        def come():
            if self.into is None:
                arrive(what)
                return
            waited = self.into.taken - taken
            slowest = self.ns_per_byte if self.out is None else max(self.ns_per_byte, self.out.kv.ns_per_byte)
            end = self.into.last(self.reference.now - round(size * slowest) + waited, size)
            self.pass_card(self.into, end, lambda: arrive(what))

        if self.out is None:
            self.reference.call_at(left, leave)
        else:
            end = self.out.last(max(now, self.out.free), size)
            begin = max(begin, end - round(size * self.out.kv.ns_per_byte))
            self.pass_card(self.out, end, lambda: self.reference.call_at(max(left, self.reference.now), leave))
        if self.into is not None:
            self.reference.call_at(begin, look)

    def pass_card(self, card, end, then):
        """Go on when a card has let a message pass, however often other traffic pushes it back."""
        seen = card.kv.lost

        def look():
            nonlocal seen
            more, seen = card.kv.lost - seen, card.kv.lost
            if more:
                self.reference.call_at(self.reference.now + more, look)
            else:
                then()

        if end > self.reference.now:
            self.reference.call_at(end, look)
        else:
            then()


class LegReplica(Replica):
    """A chain of nodes with its scheduler, for one phase or both."""

    def __init__(self, reference, hops):
        super().__init__(reference, hops)
        self.role = reference.fleet.cluster.node(self.stages[0].node.id).role
        self.sending = []
        if self.role == "prefill":
            self.engine = reference.of_prefill(self.engine)
            self.drafts = 0
            self.most = min(self.budget, *(stage.limits.max_decode_seqs for stage in self.stages),
                            *(stage.most for stage in self.stages if stage.most is not None))  # fmt: skip
        if self.role == "decode":
            self.engine = reference.of_decode(self.engine)
        if reference.how.is_layerwise and self.role == "prefill":
            for stage in self.stages:
                self.watch(stage)

    def watch(self, stage):
        """Send the layers of prompts as a stage computes them."""
        plain = stage.look

        def look():
            before = stage.step
            plain()
            if stage.step is not None and stage.step is not before:
                start, end = stage.node.busy[-1]
                for part in stage.step.parts:
                    if isinstance(part.sequence, Leg):
                        self.reference.send_layers(part, stage, end - start)

        stage.look = look

    @property
    def own(self):
        return super().own + sum(self.blocks(leg.computed) - leg.held for leg in self.sending)

    def submit(self, sequence):
        """Send a request off: its leg where the prompt comes first, and itself where its memory does."""
        sequence.is_routed, leg = True, sequence.leg
        if leg is not None and self.reference.how.is_layerwise:
            sequence.source.travelling.append(leg)
        elif leg is not None:
            leg.since = leg.arrival = self.reference.now
            sequence = leg
        super().submit(sequence)

    def receive(self, sequence):
        arrival, sequence.arrival = sequence.arrival, sequence.since
        super().receive(sequence)
        sequence.arrival = arrival

    def take(self, step):
        computed = [part.sequence for part in step.parts if part.samples and isinstance(part.sequence, Leg)]
        super().take(step)
        for leg in computed:
            self.running.remove(leg)
            self.publish(leg)
            self.sending.append(leg)
            self.reference.prefilled(leg)

    def expect(self, sequence):
        """Reserve memory for a prompt that is computed elsewhere."""
        now, found = self.reference.now, self.found(sequence)[: (sequence.first - 1) // self.block_tokens]
        blocks = self.blocks(sequence.prompt) - len(found) + sum(name in self.idle for name in found)
        if not self.admits(sequence, blocks + self.unfinished):
            return False
        self.waiting.pop(0)
        self.running.append(sequence)
        self.use(found)
        sequence.held = len(found)
        sequence.known = sequence.held * self.block_tokens
        sequence.missing -= sequence.known * self.reference.fleet.model.num_layers
        sequence.reserved = self.expected(sequence)
        sequence.computed, sequence.goal, sequence.start = sequence.first, sequence.prompt, -1
        sequence.in_steps, sequence.is_loading = 1, True
        if sequence.admitted < 0:
            sequence.admitted = now
        sequence.queue += now - sequence.since
        sequence.since = now
        self.evict()
        self.reference.reserved(sequence)
        return True

    def join(self, sequence):
        """Let a request decode whose keys and values are here."""
        sequence.in_steps, sequence.is_loading = 0, False
        self.publish(sequence)
        sequence.is_remote = False
        sequence.since = self.reference.now
        self.is_touched = True
        if not sequence.is_unfinished:
            sequence.yields = self.draw(sequence)
            self.reference.call_at(self.reference.now + self.client_ns, self.reference.deliver, [(sequence, 1)])

    def reject(self, sequence):
        assert not self.sending
        super().reject(sequence)


class LegView(View):
    """What a policy sees of one phase."""

    def __init__(self, reference, sequence, leg):
        super().__init__(reference, sequence)
        self.leg, self.decodes = leg, leg is reference.inputs.legs.decode
        self.is_computed = self.decodes and reference.most_local is None

    def replica(self, node):
        return self.reference.replica_of(self.leg.graph.node_ids[node])

    def fits(self, hop):
        replica = self.replica(hop.node)
        if self.sequence.prompt + 1 > replica.capacity * replica.block_tokens:
            return False
        at_once = self.reference.feed.mode is FeedMode.SATURATE and not self.decodes
        return not at_once or replica.could_admit(self.sequence)

    def prompt_backlog(self, node):
        replica = self.replica(node)
        computing = sum(max(0, one.goal - one.computed) for one in replica.running)
        return computing + sum(one.prompt - one.first if one.is_remote else one.context for one in replica.outside)

    def cached_tokens(self, node):
        if not self.is_computed:
            return super().cached_tokens(node)
        return min(self.sequence.first, self.sequence.prompt - 1)

    def transfer_ns(self, node):
        if not self.is_computed:
            return 0.0
        reference, longest, model = self.reference, 0.0, self.reference.fleet.model
        for src, dst, layers in reference.ways(self.sequence.source, self.replica(node)):
            wire = reference.kv_wire(src.node.id, dst.node.id)
            size = (
                self.sequence.first * len(layers) * model.kv_bytes_per_token_per_layer * reference.bits / model.kv_bits
            )
            took = max(wire.free - reference.now, 0) + size * wire.ns_per_byte + wire.latency
            longest = max(longest, took)
        return longest


class LegReference(Reference):
    """The coordinator, its clients, and the whole; ``of_prefill`` and ``of_decode``: the engine by phase."""

    def __init__(self, inputs, of_prefill, of_decode):
        self.how, self.of_prefill, self.of_decode = inputs.legs.transfer, of_prefill, of_decode
        self.most_local = inputs.legs.most_local_tokens
        super().__init__(inputs)
        self.bits = min(self.how.bits or 32, self.fleet.model.kv_bits)
        cards = {node.id: node.nic_bps for node in self.fleet.cluster.nodes if node.nic_bps}
        self.cards_out |= {end: PoliteCard(bps, self.how.efficiency) for end, bps in cards.items()}
        self.cards_in |= {end: PoliteCard(bps, self.how.efficiency) for end, bps in cards.items()}
        self.replicas = [LegReplica(self, self.chain(hop)) for hop in inputs.graph.first]
        sides = [[r for r in self.replicas if r.role in (phase, "both")] for phase in ("prefill", "decode")]
        self.largest = min(max(r.capacity * r.block_tokens for r in side) for side in sides)
        self.kv_wires, self.computed, self.done = {}, [], []

    def replica_of(self, node_id):
        return next(r for r in self.replicas if any(stage.node.id == node_id for stage in r.stages))

    def kv_wire(self, src, dst):
        if (src, dst) not in self.kv_wires:
            self.kv_wires[src, dst] = KvWire(self, src, dst)
        return self.kv_wires[src, dst]

    # Routes

    def enter(self, request):
        is_in = super().enter(request)
        sequence = self.standing if is_in and self.feed.mode is FeedMode.SATURATE else self.sequences[-1]
        sequence.__class__ = Request
        return is_in

    def ask(self, sequence, leg):
        expected = sequence.prompt + max(round(self.inputs.expected_output_tokens), 1)
        hops = leg.policy.route(sequence.prompt, expected, LegView(self, sequence, leg))
        return None if hops is None else self.replica_of(leg.graph.node_ids[hops[0].node])

    def route(self, sequence):
        """The replica that a request is submitted to first, as ``coordinate`` does with it."""
        legs = self.inputs.legs
        if self.most_local is not None:
            sequence.target = target = sequence.target or self.ask(sequence, legs.decode)
            if target is None:
                return None
            if sequence.prompt - target.cached(sequence) <= self.most_local:
                at_once = self.feed.mode is FeedMode.SATURATE
                return target if not at_once or target.could_admit(sequence) else None
        sequence.source = source = self.ask(sequence, legs.prefill)
        if source is None or source.role == "both" or sequence.output == 1:
            return source
        share, block = self.inputs.legs.prefill_share, source.block_tokens
        whole = max(int(share * sequence.prompt) // block * block, block)
        sequence.first = sequence.prompt if share == 1 else min(sequence.prompt, whole)
        if self.how.is_layerwise and self.most_local is None:
            sequence.target = self.ask(sequence, legs.decode)
            if sequence.target is None:
                return None
        sequence.leg = Leg(sequence.request, 2, self.now)  # with a token left it keeps its memory
        sequence.leg.of = sequence
        sequence.is_remote = True
        sequence.leg.prompt = sequence.first
        sequence.missing = sequence.first * self.fleet.model.num_layers
        return sequence.target if self.how.is_layerwise else source

    def coordinate(self):
        self.computed.sort(key=lambda one: (one.since, self.sequences.index(one)))
        while self.computed:
            sequence = self.computed[0]
            if self.most_local is None:
                sequence.target = self.ask(sequence, self.inputs.legs.decode)
            if sequence.target is None:
                break
            self.computed.pop(0)
            sequence.queue += self.now - sequence.since
            sequence.since = self.now
            Replica.submit(sequence.target, sequence)
        super().coordinate()

    def saturate(self):
        while True:
            open_ones = [s for s in self.sequences if s.is_routed and s.status is RequestStatus.WAITING]
            limit = self.feed.prompts_in_flight
            if limit is not None and sum(not s.generated for s in open_ones) >= limit:
                break
            if self.standing is None:
                self.launch()
            sequence = self.standing
            if sequence is None:
                break
            sequence.since = sequence.arrival = self.now
            replica = self.route(sequence)
            if replica is None and any(s.delivered < s.output for s in open_ones):
                break
            self.standing = None
            self.sequences.append(sequence)
            if replica is None:
                sequence.status = RequestStatus.REJECTED
            else:
                replica.submit(sequence)

    # Legs

    def ways(self, source, target):
        for src in source.stages:
            for dst in target.stages:
                first = max(src.node.range.start, dst.node.range.start)
                layers = range(first, min(src.node.range.end, dst.node.range.end))
                if layers:
                    yield src, dst, layers

    def size(self, layers, first, last, sequence, dst):
        """Bytes of the tokens ``first`` .. ``last - 1`` in some layers."""
        total, gpus = 0.0, self.fleet.cluster.node(dst.node.id).gpus
        for number in layers:
            attention = self.fleet.model.layers[number].attention
            kept = range(first, last)
            if attention.window_tokens is not None:
                kept = [token for token in kept if token >= sequence.first - attention.window_tokens]
            copies = gpus / min(gpus, attention.num_kv_heads)
            total += len(kept) * attention.kv_numbers * self.bits / 8 * copies
        return round(total)

    def reserved(self, sequence):
        if not self.how.is_layerwise:
            sequence.since_kv = self.now
            for src, dst, layers in self.ways(sequence.source, sequence.target):
                self.send_kv(sequence, src, dst, layers, sequence.known, sequence.first)
            return
        leg = sequence.leg
        leg.arrival = leg.since = self.now
        self.call_at(self.now + sequence.target.client_ns, self.submit_leg, sequence)

    def submit_leg(self, sequence):
        leg, source = sequence.leg, sequence.source
        leg.network += self.now - leg.since
        leg.since = self.now
        source.travelling.remove(leg)
        Replica.submit(source, leg)

    def send_layers(self, part, stage, duration):
        leg = part.sequence
        sequence = leg.of
        sent = leg.__dict__.setdefault("sent", {})
        first, last = sent.get(stage, sequence.known), part.before + part.tokens
        if last <= first:
            return
        sent[stage] = last
        for src, dst, layers in self.ways(sequence.source, sequence.target):
            if src is stage:
                for layer in layers:
                    ready = round(duration * (layer + 1 - stage.node.range.start) / stage.node.range.layers)
                    self.call_at(self.now + ready, self.send_kv, sequence, src, dst, [layer], first, last)

    def send_kv(self, sequence, src, dst, layers, first, last):
        size = self.size(layers, first, last, sequence, dst)
        wire = self.kv_wire(src.node.id, dst.node.id)
        wire.send(size, lambda covers: self.kv_came(sequence, covers), (last - first) * len(layers))

    def kv_came(self, sequence, covers):
        sequence.missing -= covers
        self.end_transfer(sequence)

    def prefilled(self, leg):
        sequence = leg.of
        sequence.queue += leg.queue
        sequence.network += leg.network
        sequence.cached, sequence.loaded = leg.cached, leg.loaded
        sequence.load += leg.load
        sequence.preemptions, leg.preemptions = sequence.preemptions + leg.preemptions, 0
        if sequence.admitted < 0:
            sequence.admitted = leg.admitted
        sequence.generated = int(sequence.first == sequence.prompt)
        sequence.since = sequence.prefilled_at = self.now
        self.end_transfer(sequence)

    def end_transfer(self, sequence):
        if sequence.missing or sequence.prefilled_at < 0:
            return
        since = sequence.prefilled_at if self.how.is_layerwise else sequence.since_kv
        sequence.transfer = self.now - since
        source = sequence.source
        source.release(sequence.leg)
        source.sending.remove(sequence.leg)
        source.is_touched = True
        sequence.leg = None
        sequence.target.join(sequence)

    def deliver(self, tokens):
        for sequence, number in tokens:
            if not isinstance(sequence, Leg):
                super().deliver([(sequence, number)])
            elif not self.how.is_layerwise:
                request = sequence.of
                request.network += self.now - request.since
                request.since = self.now
                self.computed.append(request)

    def status(self, sequence):
        if sequence.status is not RequestStatus.WAITING:
            return sequence.status
        leg = sequence.leg
        runs = leg is not None and leg in sequence.source.running + sequence.source.sending
        runs = runs or (sequence.replica is not None and sequence not in sequence.replica.outside)
        return RequestStatus.RUNNING if runs else RequestStatus.WAITING

    def run(self):
        super().run()
        for sequence in self.sequences:
            if sequence.leg is not None:
                sequence.preemptions += sequence.leg.preemptions
                if sequence.admitted < 0:
                    sequence.admitted = sequence.leg.admitted
        self.wires |= self.kv_wires
        return self
