"""A slow engine in the plainest code: every request is handled, sent and received by itself.

It is the oracle of the real one, which moves groups of requests in one go. What both share is what does not depend
on grouping: the event queue, fair links, the time of a layer, the policies.
"""

from __future__ import annotations

from collections import Counter
from itertools import count, pairwise

from helixsim.domain.cluster import COORDINATOR, TOKEN_ID_BYTES
from helixsim.domain.request import FeedMode
from helixsim.domain.result import RequestStatus
from helixsim.engine.inputs import SimulationInputs
from helixsim.engine.kernel import Kernel, Priority
from helixsim.engine.network import Card
from helixsim.engine.sharing import FairLink
from helixsim.routing.base import HopObserver


class Journey:
    """A request and all that happens to it."""

    def __init__(self, request, now):
        self.request = request
        self.prompt = request.prompt_tokens
        self.arrival = self.since = now
        self.status = RequestStatus.WAITING
        self.admitted = self.first_token = self.finish = -1
        self.last_token = 0
        self.generated = self.preemptions = self.queue = self.compute = self.network = 0
        self.hops = None
        self.order = self.blocks = self.reserved = 0
        self.held = False
        self.preempt_for = None
        # The step it is at.
        self.departure = self.at = self.sent = self.arrived = 0
        self.is_prefill = False
        self.past = 0
        self.message = None

    @property
    def context(self):
        return self.prompt + self.generated

    @property
    def tokens(self):
        return self.context - self.past if self.is_prefill else 1

    @property
    def stage(self):
        return self.hops[self.at]


class Chunk:
    """The first tokens of what is left of a prompt, on their own way to the end of the route."""

    is_prefill = True

    def __init__(self, journey, tokens):
        self.hops, self.departure, self.at, self.sent = journey.hops, journey.departure, journey.at, journey.sent
        self.arrived, self.past, self.tokens = journey.arrived, journey.past, tokens
        self.queue = self.compute = self.network = 0
        journey.past += tokens

    @property
    def stage(self):
        return self.hops[self.at]


class Wire:
    """One direction of a link."""

    def __init__(self, reference, src, dst):
        cluster = reference.fleet.cluster
        link = cluster.link(src, dst)
        self.reference, self.src, self.dst = reference, src, dst
        self.ns_per_byte = 8e9 / link.bandwidth_bps
        self.latency = link.latency_ns + reference.inputs.engine.message_overhead_ns
        self.free = self.waited = self.messages = self.bytes = 0
        activations = 0 if COORDINATOR in (src, dst) else reference.fleet.model.activation_bytes_per_token
        self.token_bytes = TOKEN_ID_BYTES + activations
        self.sendings, self.under_way = [], {}
        self.fair = FairLink(reference.kernel, self.ns_per_byte, self.leave) if cluster.network.is_shared else None

    def time(self, size):
        return round(size * self.ns_per_byte)

    def send(self, journeys):
        now = self.reference.kernel.now_ns
        tokens = 1 if self.dst == COORDINATOR and journeys[0].is_prefill else sum(j.tokens for j in journeys)
        size = self.token_bytes * tokens
        message = (journeys, size, now)
        for journey in journeys:
            journey.sent, journey.message = now, message
        if self.fair:
            self.under_way[id(message)] = now
            self.fair.send(size, message)
            return
        start = max(now, self.free)
        end = self.card(self.reference.cards_out, self.src, now, size, start + self.time(size))
        self.waited += start - now
        self.leave_at(end, message)

    def leave(self, message):
        """A message has left a fair link."""
        _, size, sent = message
        now = self.reference.kernel.now_ns
        self.sendings.append((self.under_way.pop(id(message)), now))
        self.waited += max(now - sent - self.time(size), 0)
        self.leave_at(self.card(self.reference.cards_out, self.src, now - self.time(size), size, now), message)

    def leave_at(self, end, message):
        journeys, size, _ = message
        self.free = end
        self.messages += 1
        self.bytes += size
        if not self.fair:
            self.sendings.append((end - self.time(size), end))
        late = spacing = 0
        if self.reference.inputs.is_one_by_one and not (self.fair or journeys[0].is_prefill or self.dst == COORDINATOR):
            late, spacing = self.time(size - self.token_bytes), max(1, self.time(self.token_bytes))
        arrival = end + self.latency - late - self.reference.kernel.now_ns
        self.reference.kernel.call_in(arrival, Priority.DELIVER, self.pass_card, (message, spacing))

    def totals(self, now):
        """Time with something on the wire, and bytes through it, up to now."""
        sendings = [*self.sendings, *((sent, now) for sent in self.under_way.values())]
        busy, until = 0, 0
        for start, end in sorted(sendings):
            busy += max(0, min(end, now) - max(start, until))
            until = max(until, min(end, now))
        left = sum(max(0, end - max(start, now)) for start, end in sendings)
        return {"busy_ns": busy, "bytes": self.bytes - (round(left / self.ns_per_byte) if left else 0)}

    def pass_card(self, event):
        (journeys, size, _), spacing = event.argument
        now = self.reference.kernel.now_ns
        sender = self.reference.cards_out.get(self.src)
        slowest = self.ns_per_byte if sender is None else max(self.ns_per_byte, sender.ns_per_byte)
        delay = self.card(self.reference.cards_in, self.dst, now - round(size * slowest), size, now) - now
        for number, journey in enumerate(journeys):
            self.reference.kernel.call_in(
                delay + number * spacing, Priority.DELIVER, lambda event: self.arrive(event.argument), journey
            )

    def card(self, cards, end_of_link, start, size, earliest):
        return max(earliest, cards[end_of_link].pass_through(start, size)) if end_of_link in cards else earliest

    def arrive(self, journey):
        now = self.reference.kernel.now_ns
        journey.network += now - journey.sent
        journey.arrived = now
        self.reference.places[self.dst].receive(journey)


class Inside:
    """The way of token ids inside an engine: a constant delay, and no link is used."""

    def __init__(self, reference, delay, place):
        self.reference, self.delay, self.place = reference, delay, place

    def send(self, journeys):
        for journey in journeys:
            journey.sent = self.reference.kernel.now_ns
            self.reference.kernel.call_in(self.delay, Priority.DELIVER, self.arrive, journey)

    def arrive(self, event):
        journey, now = event.argument, self.reference.kernel.now_ns
        journey.network += now - journey.sent
        journey.arrived = now
        self.place.receive(journey)


class Machine:
    """A node."""

    def __init__(self, reference, number, node_id, layers):
        self.reference, self.number, self.id, self.range = reference, number, node_id, layers
        profile = reference.fleet.profile(node_id)
        self.node = reference.fleet.cluster.node(node_id)
        self.compute, self.limits = profile.compute, profile.limits[layers.layers - 1]
        self.capacity = reference.fleet.kv_blocks(node_id, layers) * layers.layers
        self.waiting, self.batch, self.residents = [], None, []
        self.is_gathering = self.is_prompt_due = False
        self.early, self.seen = [], Counter()
        self.batches = self.prompt_tokens = self.decode_tokens = self.preemptions = self.peak = 0

    def layers_of(self, journey):
        return next(hop.end - hop.start for hop in journey.hops if hop.node == self.number)

    @property
    def used(self):
        return sum(journey.blocks * self.layers_of(journey) for journey in self.residents)

    @property
    def reserved(self):
        return sum(journey.reserved * self.layers_of(journey) for journey in self.residents)

    def receive(self, journey):
        if journey.is_prefill and journey.at:
            self.early.append(journey)
            self.let_in(journey.departure)
        else:
            self.waiting.append(journey)
        self.look()

    def let_in(self, departure):
        """The chunks of a prompt that have come, up to the first that is missing."""
        now = self.reference.kernel.now_ns
        for chunk in sorted(self.early, key=lambda chunk: chunk.past):
            if chunk.departure == departure and chunk.past == self.seen[departure]:
                self.seen[departure] += chunk.tokens
                self.early.remove(chunk)
                self.waiting.append(chunk)
                chunk.network += now - chunk.arrived
                chunk.arrived = now

    def look(self):
        if self.batch is None and not self.is_gathering and self.waiting:
            self.is_gathering = True
            gather = self.reference.inputs.engine.gather_ns
            self.reference.kernel.call_in(gather, Priority.DISPATCH, self.start, None)

    def start(self, _event):
        self.is_gathering = False
        self.waiting.sort(key=lambda journey: (journey.arrived, journey.departure, journey.past))
        prefills = [journey for journey in self.waiting if journey.is_prefill]
        decodes = [journey for journey in self.waiting if not journey.is_prefill]
        cut = []
        if self.reference.cuts_prompts:
            prefills, decodes, cut = self.within_budget(prefills, decodes)
        else:
            taken = self.reference.inputs.batching.plan([j.tokens for j in prefills], len(decodes), self.limits)
            prefills, decodes = prefills[: taken[0]], decodes[: taken[1]]
        self.batch = prefills + decodes
        self.waiting = [journey for journey in self.waiting if journey not in self.batch]
        duration = self.duration(prefills, decodes)
        now = self.reference.kernel.now_ns
        for journey in self.batch:
            journey.queue += now - journey.arrived
            journey.compute += duration
        for journey in cut:
            journey.queue -= duration
            journey.compute += duration
        self.batches += 1
        self.prompt_tokens += sum(journey.tokens for journey in prefills)
        self.decode_tokens += len(decodes)
        self.reference.kernel.call_in(duration, Priority.FINISH, self.end, None)

    def within_budget(self, prompts, decodes):
        """The chunks and decode steps of a step, and the prompts that were cut for it."""
        budget = self.limits.max_prefill_tokens
        due = self.piece(prompts[0], budget) if self.is_prompt_due else 0
        decodes = decodes[: min(self.limits.max_decode_seqs, budget - due)]
        left = budget - len(decodes)
        chunks, cut = [], []
        for prompt in prompts[: self.limits.max_prefill_requests]:
            tokens = self.piece(prompt, left)
            if not tokens:
                break
            left -= tokens
            if tokens == prompt.tokens:
                chunks.append(prompt)
            else:
                chunks.append(Chunk(prompt, tokens))
                cut.append(prompt)
        self.is_prompt_due = bool(prompts) and not chunks
        return chunks, decodes, cut

    def piece(self, prompt, left):
        """How many tokens of a prompt fit: at its first stage it is cut, later nodes take its chunks whole."""
        if prompt.at:
            return prompt.tokens if prompt.tokens <= left else 0
        limits = [self.reference.machines[hop.node].limits.max_prefill_tokens for hop in prompt.hops]
        threshold = self.reference.inputs.engine.long_prefill_token_threshold
        return min(prompt.tokens, left, *limits, *([threshold] if threshold else []))

    def duration(self, prefills, decodes):
        compute, engine = self.compute, self.reference.inputs.engine
        entries = sorted({journey.stage.start for journey in prefills + decodes})
        total = attention = 0.0
        for entry, following in pairwise([*entries, self.range.end]):
            prompt = sum(journey.tokens for journey in prefills if journey.stage.start <= entry)
            contexts = [journey.context for journey in decodes if journey.stage.start <= entry]
            one = work_ns(compute, engine, prompt, len(contexts))
            if contexts and compute.decode_context_ns_per_token:
                floor = min(compute.decode(1), work_ns(compute, engine, 0, 1))
                one = max(one + compute.context_ns(len(contexts), sum(contexts)), floor)
            total += (following - entry) * one
            chunks = [journey for journey in prefills if journey.stage.start <= entry]
            attention += self.attention_ns(chunks, following - entry)
        tokens = sum(journey.tokens for journey in prefills) + len(decodes)
        own = engine.batch_overhead_ns + engine.sequence_overhead_ns * (len(prefills) + len(decodes))
        if engine.has_output_head and compute.head and self.range.end == self.reference.inputs.placement.num_layers:
            sampled = len(decodes) + sum(not isinstance(journey, Chunk) for journey in prefills)
            total += compute.head(sampled) if sampled else 0.0
        copy = compute.activation_copy_ns_per_token if engine.copies_activations else 0.0
        return round(total + attention + copy * tokens + own)

    def attention_ns(self, chunks, layers):
        """What chunks take for their pairs, or for reading what was computed before them if that takes longer."""
        if not chunks or not self.compute.prefill_ns_per_pair:
            return 0.0
        tokens = sum(chunk.tokens for chunk in chunks)
        pairs = sum(chunk.tokens * chunk.past + chunk.tokens**2 / 2 for chunk in chunks)
        past = max(pairs / tokens - tokens / len(chunks) / 2, 0.0)
        reading = self.compute.decode_context_ns_per_token * (layers * len(chunks) * past)
        return max(self.compute.prefill_ns_per_pair * (layers * pairs), reading)

    def end(self, _event):
        batch, self.batch = self.batch, None
        policy, now = self.reference.inputs.policy, self.reference.kernel.now_ns
        if isinstance(policy, HopObserver):
            told = [j for j in batch if j.at or not isinstance(j, Chunk)]
            messages = Counter((j.stage.edge, j.sent, j.departure if j.is_prefill else -1) for j in told)
            for (edge, sent, _), requests in sorted(messages.items(), key=lambda item: (item[0][2] < 0, item[0][1])):
                policy.observe(edge, now - sent, requests)
        for journey in batch:
            journey.at += 1
        decodes = sorted((j for j in batch if not j.is_prefill), key=lambda journey: journey.departure)
        for group in grouped(decodes, self.reference.place_of):
            self.reference.way(self.id, self.reference.place_of(group[0])).send(group)
        for journey in batch:
            ends_here = isinstance(journey, Chunk) and journey.at == len(journey.hops)
            if journey.is_prefill and not ends_here:
                self.reference.way(self.id, self.reference.place_of(journey)).send([journey])
        self.look()


def grouped(items, key):
    """Lists of items of equal key, in order of first appearance."""
    groups = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.values())


class Reference:
    """The coordinator, and the whole."""

    machine_kind = Machine

    def __init__(self, inputs: SimulationInputs):
        self.inputs, self.fleet, self.feed = inputs, inputs.fleet, inputs.feed
        self.kernel = Kernel()
        self.machines = [
            self.machine_kind(self, number, node_id, layers)
            for number, (node_id, layers) in enumerate(inputs.placement.ranges.items())
        ]
        self.places = {machine.id: machine for machine in self.machines} | {COORDINATOR: self}
        limits = {node.id: node.nic_bps for node in self.fleet.cluster.nodes}
        limits[COORDINATOR] = self.fleet.cluster.network.coordinator_nic_bps
        self.cards_out = {end: Card(bps) for end, bps in limits.items() if bps}
        self.cards_in = {end: Card(bps) for end, bps in limits.items() if bps}
        self.wires = {}
        self.block_tokens = self.fleet.profiles[0].block_tokens
        self.largest_context = self.block_tokens * self.widest(inputs.graph.first)
        self.journeys, self.waiting, self.inbox, self.stalled, self.ready, self.starting = [], [], [], [], [], []
        self.gaps = []
        self.orders, self.departures = count(), count()
        self.is_pending, self.may_admit = False, True
        self.chances = self.feed.prompts_in_flight or 0
        is_mixed = getattr(inputs.batching, "scheduler", None) == "mixed"
        self.cuts_prompts = inputs.engine.loops_inside and inputs.engine.chunks_prompts and is_mixed
        self.window_end = None
        if inputs.window.duration_ns is not None:
            self.window_end = inputs.window.warmup_ns + inputs.window.duration_ns

    def widest(self, hops):
        widths = [0]
        for hop in hops:
            own = self.machines[hop.node].capacity // (hop.end - hop.start)
            is_last = hop.end == self.inputs.graph.num_layers
            widths.append(own if is_last else min(own, self.widest(self.inputs.graph.successors[hop.node])))
        return max(widths)

    def run(self):
        if self.feed.mode is FeedMode.OPEN:
            self.plan_arrival()
        elif self.feed.mode is FeedMode.CLOSED_LOOP:
            for _ in range(self.feed.concurrency):
                self.launch()
        self.plan()
        if self.window_end is not None and not self.inputs.window.drain:
            self.kernel.call_in(self.window_end, Priority.SAMPLE, lambda _event: self.kernel.stop(), None)
        self.kernel.run()
        if self.feed.mode is FeedMode.SATURATE:  # what stands ready outside arrives only when it is admitted
            self.journeys = [j for j in self.journeys if j.admitted >= 0 or j.status is RequestStatus.REJECTED]
        return self

    def wire(self, src, dst):
        if (src, dst) not in self.wires:
            self.wires[src, dst] = Wire(self, src, dst)
        return self.wires[src, dst]

    def way(self, src, dst):
        inside = self.inputs.engine.loops_inside and dst == COORDINATOR
        return Inside(self, 0, self) if inside else self.wire(src, dst)

    def next_way(self, journeys):
        """The way of decode steps to their first machine."""
        journey = journeys[0]
        first = self.place_of(journey)
        if journey.is_prefill or not self.inputs.engine.loops_inside:
            return self.wire(COORDINATOR, first)
        last = self.machines[journey.hops[-1].node].id
        link = self.fleet.cluster.link(last, first) if last != first else None
        delay = link.latency_ns + self.inputs.engine.message_overhead_ns if link else 0
        return Inside(self, delay, self.places[first])

    def ends_of(self, journey):
        """What decode steps that leave as one message have in common."""
        first = self.place_of(journey)
        return (self.machines[journey.hops[-1].node].id, first) if self.inputs.engine.loops_inside else first

    def place_of(self, journey):
        return self.machines[journey.stage.node].id if journey.at < len(journey.hops) else COORDINATOR

    # Arrivals

    def plan_arrival(self):
        request = next(self.feed.requests, None)
        if request is not None:
            self.kernel.call_in(request.arrival_ns - self.kernel.now_ns, Priority.DELIVER, self.come, request)

    def come(self, event):
        self.enter(event.argument)
        self.plan_arrival()

    def launch(self):
        request = next(self.feed.requests, None)
        while request is not None and not self.enter(request):
            request = next(self.feed.requests, None)

    def enter(self, request):
        journey = Journey(request, self.kernel.now_ns)
        self.journeys.append(journey)
        room = self.fleet.model.max_context_tokens - journey.prompt
        journey.output = min(request.output_tokens, room)
        if room < 1 or journey.prompt + 1 > self.largest_context:
            journey.status = RequestStatus.REJECTED
            return False
        self.waiting.append(journey)
        if len(self.waiting) == 1:
            self.may_admit = True
            self.plan()
        return True

    # Steps

    def receive(self, journey):
        self.inbox.append(journey)
        self.plan()

    def plan(self):
        if not self.is_pending:
            self.is_pending = True
            self.kernel.call_in(0, Priority.COORDINATE, self.act, None)

    def act(self, _event):
        inbox, self.inbox = sorted(self.inbox, key=lambda journey: journey.departure), []
        growing = []
        for journey in inbox:
            self.token(journey, growing)
        self.grow(growing)
        if self.may_admit and not self.stalled:
            self.admit()
        ready = [journey for path in grouped(self.ready, lambda journey: journey.hops) for journey in path]
        for journey in [*ready, *self.starting]:
            journey.departure, journey.at = next(self.departures), 0
        for group in [*grouped(ready, self.ends_of), *([journey] for journey in self.starting)]:
            self.next_way(group).send(group)
        self.ready, self.starting = [], []
        self.is_pending = False

    def token(self, journey, growing):
        now, window = self.kernel.now_ns, self.inputs.window
        journey.generated += 1
        if journey.is_prefill:
            journey.is_prefill, journey.past = False, 0
            self.may_admit = True
            self.chances += 1
        if journey.generated == 1:
            journey.first_token = now
        elif window.warmup_ns < now <= (self.window_end or now):
            self.gaps.append(now - journey.last_token)
        journey.last_token = journey.since = now
        if journey.generated >= journey.output:
            journey.status, journey.finish = RequestStatus.FINISHED, now
            self.leave(journey)
            self.chances += 1
            self.replace()
        elif journey.preempt_for is not None:
            self.preempt(journey, journey.preempt_for)
        elif journey.context > journey.blocks * self.block_tokens:
            growing.append(journey)
        else:
            self.ready.append(journey)

    def leave(self, journey):
        for hop in journey.hops:
            self.machines[hop.node].residents.remove(journey)
        self.may_admit = True

    def replace(self):
        if self.feed.mode is FeedMode.CLOSED_LOOP:
            self.launch()

    # Memory

    def grow(self, growing):
        queue = sorted(self.stalled + growing, key=lambda journey: journey.order)
        self.stalled = []
        for journey in queue:
            journey.held = True
        for journey in queue:
            if journey.hops is None:
                continue
            if self.extend(journey):
                journey.held = False
                journey.queue += self.kernel.now_ns - journey.since
                self.ready.append(journey)
            elif journey.held:
                self.stalled.append(journey)

    def extend(self, journey):
        machines = [(self.machines[hop.node], hop.end - hop.start) for hop in journey.hops]
        while full := [machine for machine, layers in machines if machine.used + layers > machine.capacity]:
            victim = max(full[0].residents, key=lambda resident: resident.order)
            if not victim.held:
                victim.preempt_for = full[0]
                return False
            self.preempt(victim, full[0])
            if victim is journey:
                return False
        journey.blocks += 1
        journey.reserved = max(journey.reserved, journey.blocks)
        for machine, _ in machines:
            machine.peak = max(machine.peak, machine.used)
        return True

    def preempt(self, journey, machine):
        self.leave(journey)
        machine.preemptions += 1
        journey.hops, journey.held, journey.preempt_for = None, False, None
        journey.preemptions += 1
        if journey.context + 1 > self.largest_context:
            self.give_up(journey)
        else:
            self.waiting.insert(0, journey)

    def give_up(self, journey):
        journey.status = RequestStatus.REJECTED
        if self.feed.mode is FeedMode.SATURATE and journey.admitted < 0:
            journey.arrival = self.kernel.now_ns
        self.replace()

    # Admission

    def admit(self):
        saturate, limit = self.feed.mode is FeedMode.SATURATE, self.feed.prompts_in_flight
        chance_based = self.feed.feed_below is not None
        while True:
            is_empty = not any(machine.residents for machine in self.machines)
            if chance_based:
                if self.chances and self.fullest_layer() > self.feed.feed_below:
                    self.chances = 0
                if not self.chances and not is_empty:
                    break
                self.chances = max(self.chances - 1, 0)
            if saturate and not self.waiting:
                self.launch()
            prompts = sum(journey.hops is not None and journey.is_prefill for journey in self.journeys)
            is_limited = saturate and limit is not None and not chance_based
            if not self.waiting or (is_limited and prompts >= limit):
                break
            journey = self.waiting[0]
            expected = max(journey.prompt + round(self.inputs.expected_output_tokens), journey.context + 1)
            view = self.view_kind(self, journey.context + 1, expected)
            hops = self.inputs.policy.route(journey.context, expected, view)
            if hops is not None:
                self.waiting.pop(0)
                self.enter_cluster(journey, hops, view)
            elif is_empty:
                self.waiting.pop(0)
                self.give_up(journey)
            else:
                self.chances = 0
                break
        self.may_admit = False

    def fullest_layer(self):
        """Expected share of KV memory in use, where it is largest."""
        shares = []
        for layer in range(self.inputs.graph.num_layers):
            holders = [m for m in self.machines if m.range.start <= layer < m.range.end]
            reserved = sum(machine.reserved / machine.range.layers for machine in holders)
            shares.append(reserved / sum(machine.capacity / machine.range.layers for machine in holders))
        return round(max(shares), 9)

    def enter_cluster(self, journey, hops, view):
        now = self.kernel.now_ns
        if journey.admitted < 0:
            journey.admitted = now
            if self.feed.mode is FeedMode.SATURATE:
                journey.arrival = journey.since = now
        journey.queue += now - journey.since
        journey.order, journey.hops, journey.is_prefill = next(self.orders), hops, True
        journey.blocks, journey.reserved = view.blocks(journey.context), view.blocks(view.expected)
        for hop in hops:
            machine = self.machines[hop.node]
            machine.residents.append(journey)
            machine.peak = max(machine.peak, machine.used)
        self.starting.append(journey)


class View:
    """What a routing policy sees."""

    def __init__(self, reference, tokens, expected):
        self.reference, self.tokens, self.expected = reference, tokens, expected

    def blocks(self, tokens):
        return -(-tokens // self.reference.block_tokens)

    def fits(self, hop):
        machine, layers = self.reference.machines[hop.node], hop.end - hop.start
        now = machine.used + self.blocks(self.tokens) * layers
        if not machine.residents or now > machine.capacity:
            return now <= machine.capacity
        cap, inputs = machine.node.max_requests, self.reference.inputs
        if inputs.engine.loops_inside:
            cap = min(machine.limits.max_decode_seqs, cap or machine.limits.max_decode_seqs)
        return (
            now <= machine.capacity - int(inputs.engine.min_free_share * machine.capacity)
            and (cap is None or len(machine.residents) < cap)
            and machine.reserved + self.blocks(self.expected) * layers <= int(inputs.high_water * machine.capacity)
        )

    def queue_length(self, node):
        return len(self.reference.machines[node].waiting)

    def prompt_backlog(self, node):
        return sum(journey.tokens for journey in self.reference.machines[node].waiting if journey.is_prefill)

    def in_flight(self, node):
        return len(self.reference.machines[node].residents)

    def in_flight_tokens(self, node):
        machine = self.reference.machines[node]
        return machine.reserved * self.reference.block_tokens // machine.range.layers

    def kv_usage(self, node):
        machine = self.reference.machines[node]
        return machine.used / machine.capacity if machine.capacity else 1.0

    def cached_tokens(self, node):
        return 0

    def transfer_ns(self, node):
        return 0.0


def work_ns(compute, engine, prompt, seqs):
    """One layer without attention to the context, by a law of its own."""
    prefill, decode = compute.prefill(prompt) if prompt else 0.0, compute.decode(seqs) if seqs else 0.0
    if not engine.shares_weight_reads:
        return sum(max(ns, engine.layer_launch_ns) for ns, size in ((prefill, prompt), (decode, seqs)) if size)
    together = prefill + decode
    if prompt and seqs:
        work = compute.token_work
        if work is None:
            together -= min(compute.prefill(1), decode)
        else:
            together = prefill - work(prompt) + decode - work(seqs) + work(prompt + seqs)
    return max(together, engine.layer_launch_ns)


Reference.view_kind = View
