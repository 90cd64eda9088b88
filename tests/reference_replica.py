"""A slow engine of replicas in the plainest code: every sequence is handled by itself, in every step.

It is the oracle of the fast one: no groups, no leaps, and blocks are counted from the tokens of each sequence. What
both share is what does not depend on scheduling: the time of a step, the policies.
"""

from __future__ import annotations

import heapq
from itertools import count, pairwise

from helixsim.batching.policies import PrefillFirst
from helixsim.domain.cluster import COORDINATOR, TOKEN_ID_BYTES
from helixsim.domain.data_parallel import step_time
from helixsim.domain.request import FeedMode
from helixsim.domain.result import RequestStatus
from helixsim.domain.step_time import BatchShape


class Sequence:
    """A request and all that happens to it."""

    is_remote = is_elsewhere = False  # its prompt is computed elsewhere; so far it is there alone
    is_loading = False  # blocks of its prompt are on their way from host memory or disk
    transfer = load = 0
    loaded = ()  # tokens found there at first, by tier

    def __init__(self, request, output, now):
        self.request, self.prompt, self.output = request, request.prompt_tokens, output
        self.status = RequestStatus.WAITING
        self.arrival = self.since = now
        self.admitted = self.first_token = self.finish = -1
        self.generated = self.delivered = self.preemptions = 0  # tokens at the scheduler, and at the client
        self.last_token = 0
        self.queue = self.network = 0
        self.replica = self.rank = None
        self.computed = self.goal = 0  # tokens with keys and values; those to compute before the next one is sampled
        self.in_steps = self.reserved = 0
        self.start = 0  # tokens that it had when it was admitted last
        self.held = 0  # blocks others can use
        self.cached = self.lost = 0  # tokens found at first; those lost by preemption
        self.yields = []  # tokens of each of its decode steps to come

    @property
    def context(self):
        return self.prompt + self.generated

    @property
    def is_unfinished(self):
        """Whether tokens of its prompt, or of what it recomputes, are in no step yet."""
        return self.computed < self.goal

    @property
    def has_token(self):
        """Whether a token has come back and waits to be fed in."""
        return not self.in_steps and not self.is_unfinished

    @property
    def compute(self):
        return self.finish - self.arrival - self.queue - self.network - self.transfer - self.load


class Part:
    """What a step computes of one sequence: ``tokens`` behind the first ``before``, of which it keeps ``kept``."""

    def __init__(self, sequence, tokens, kept):
        self.sequence, self.tokens, self.before, self.kept = sequence, tokens, sequence.computed, kept
        self.is_chunk = sequence.is_unfinished
        self.samples = not self.is_chunk or self.before + tokens == sequence.goal
        self.gained = 1 if self.is_chunk else kept
        self.context = sequence.context


class Step:
    """A list of parts on its way through the stages."""

    def __init__(self, parts):
        self.parts = parts
        chunks = [part for part in parts if part.is_chunk]
        decodes = [part for part in parts if not part.is_chunk]
        self.tokens = sum(part.tokens for part in parts)
        self.prompt_tokens, self.decode_tokens = sum(part.tokens for part in chunks), len(decodes)
        self.shape = BatchShape(
            prefill_tokens=self.prompt_tokens,
            prefill_pairs=sum(part.tokens * (part.before + part.tokens / 2) for part in chunks),
            prefill_seqs=len(chunks),
            decode_seqs=len(decodes),
            decode_context=sum(part.context for part in decodes),
            sampled=sum(part.samples for part in parts),
        )
        self.sent = self.arrived = 0

    def sampled(self):
        return [part.sequence for part in self.parts if part.samples]

    def decoding(self):
        return [part.sequence for part in self.parts if not part.is_chunk]


class Card:
    """One direction of a network card."""

    def __init__(self, bps):
        self.ns_per_byte, self.free = 8e9 / bps, 0

    def pass_through(self, start, size):
        self.free = max(start, self.free) + round(size * self.ns_per_byte)
        return self.free


class Wire:
    """One direction of a link, first in, first out."""

    def __init__(self, reference, src, dst):
        link = reference.fleet.cluster.link(src, dst)
        self.reference, self.src, self.dst = reference, src, dst
        self.ns_per_byte, self.latency = 8e9 / link.bandwidth_bps, reference.latency(src, dst)
        activations = 0 if COORDINATOR in (src, dst) else reference.fleet.model.activation_bytes_per_token
        self.token_bytes = TOKEN_ID_BYTES + activations
        self.free = self.messages = self.bytes = self.waited = 0

    def send(self, tokens, arrive, what):
        """Let ``arrive(what)`` be called when the last of ``tokens`` tokens has come through."""
        now, size = self.reference.now, self.token_bytes * tokens
        time = round(size * self.ns_per_byte)
        self.waited += max(self.free - now, 0)
        end = max(now, self.free) + time
        if self.src in self.reference.cards_out:
            card = self.reference.cards_out[self.src]
            end = max(end, card.pass_through(now, size))
            time = max(time, round(size * card.ns_per_byte))
        self.free = end
        self.messages += 1
        self.bytes += size
        self.reference.call_at(end + self.latency, self.pass_card, size, time, arrive, what)

    def pass_card(self, size, time, arrive, what):
        end = now = self.reference.now
        if self.dst in self.reference.cards_in:
            end = max(now, self.reference.cards_in[self.dst].pass_through(now - time, size))
        if end > now:
            self.reference.call_at(end, arrive, what)
        else:
            arrive(what)


class Stage:
    """A node of a replica. ``following``: takes the steps that leave it."""

    def __init__(self, replica, node, start, is_first):
        reference = replica.reference
        profile, self.range = reference.fleet.profile(node.id), node.range
        self.replica, self.node, self.start, self.is_first = replica, node, start, is_first
        self.blocks = reference.fleet.kv_blocks(node.id, node.range)
        self.limits = profile.limits[node.range.layers - 1]
        num_layers, sizes = reference.inputs.placement.num_layers, self.limits.graph_sizes
        self.law = step_time(profile.compute, reference.inputs.engine, node.range, num_layers, sizes)
        self.most = reference.fleet.cluster.node(node.id).max_requests
        self.waiting, self.step = [], None
        self.following = None

    def receive(self, step):
        step.arrived = self.replica.reference.now
        if not self.is_first:
            for sequence in step.sampled():
                sequence.network += step.arrived - step.sent
        self.waiting.append(step)
        self.look()

    def look(self):
        if self.step is None and self.waiting:
            self.step = step = self.waiting.pop(0)
            now = self.replica.reference.now
            for sequence in step.decoding():
                sequence.queue += now - step.arrived
            duration = round(self.law.ns(step.shape, self.start))
            self.node.batches += 1
            self.node.prompt_tokens += step.prompt_tokens
            self.node.decode_tokens += step.decode_tokens
            self.node.busy.append((now, now + duration))
            self.replica.reference.call_at(now + duration, self.end)

    def end(self):
        step, self.step = self.step, None
        step.sent = self.replica.reference.now
        self.following(step)
        self.look()


class Tier:
    """Host memory or a disk: names of blocks, the one that goes first in front."""

    def __init__(self, replica, spec):
        self.name, self.latency, self.names = spec.name, spec.latency_ns, []
        fleet, tokens = replica.reference.fleet, replica.block_tokens
        self.sizes, self.rates = [], []
        for stage in replica.stages:
            gpus, each = fleet.cluster.node(stage.node.id).gpus, 0.0
            for layer in fleet.model.layers[stage.node.range.start : stage.node.range.end]:
                copies = gpus / min(gpus, layer.attention.num_kv_heads)
                each += tokens * layer.attention.kv_numbers * fleet.model.kv_bits / 8 * copies
            self.sizes.append(round(each))
            self.rates.append(spec.bytes_per_s * (gpus if spec.name == "host" else 1))
        self.capacity = min(spec.size_bytes // size for size in self.sizes)
        self.free = [0 for _ in replica.stages]

    def pass_link(self, stage, now, blocks):
        self.free[stage] = max(now, self.free[stage]) + round(blocks * (self.sizes[stage] * 1e9 / self.rates[stage]))
        return self.free[stage] + self.latency


class Replica:
    """A chain of nodes with its scheduler."""

    stage_kind = Stage

    def __init__(self, reference, hops):
        inputs = reference.inputs
        self.reference, self.hops, self.engine = reference, hops, inputs.engine
        self.block_tokens = reference.fleet.profiles[0].block_tokens
        self.stages = [self.stage_kind(self, reference.nodes[hop.node], hop.start, hop is hops[0]) for hop in hops]
        self.capacity = min(stage.blocks for stage in self.stages)
        self.tiers = [Tier(self, spec) for spec in self.engine.kv_tiers]
        self.budget = min(stage.limits.max_prefill_tokens for stage in self.stages)
        ranks = max(reference.fleet.profile(stage.node.id).compute.ranks for stage in self.stages)
        self.of_one_rank = self.budget // ranks
        self.ranks, self.balance = range(ranks), inputs.engine.attention_balance
        self.lacking = self.gathering = 0  # steps since each rank had a waiting request, and since each has one
        caps = [stage.most for stage in self.stages if stage.most is not None]
        self.drafts = 0 if inputs.engine.speculation is None else inputs.engine.speculation.k
        self.most = min(
            max(self.budget // (1 + self.drafts), 1), *(stage.limits.max_decode_seqs for stage in self.stages), *caps
        )
        self.prefill_first = isinstance(inputs.batching, PrefillFirst)
        for stage, after in pairwise(self.stages):
            stage.following = lambda step, a=stage, b=after: reference.wire(a.node.id, b.node.id).send(
                step.tokens, b.receive, step
            )
        self.stages[-1].following = self.send_back
        first, last = self.stages[0].node.id, self.stages[-1].node.id
        self.return_ns = reference.latency(last, first) if last != first else 0
        self.client_ns = reference.latency(first, COORDINATOR)
        self.travelling, self.waiting, self.running, self.in_flight = [], [], [], []
        self.unread, self.since_read = [], 0
        self.steps = []  # all that were ever formed
        self.is_touched = self.has_preempted = self.has_rejected = self.has_changed = False
        self.parts = []
        self.peak = self.preemptions = self.recomputed = 0
        # SGLang: memory for this share of the output still expected; falls in 600 decode steps to 0.14 of the first
        factor = inputs.engine.schedule_conservativeness
        self.first_ratio = None if factor is None else min(1.0, 0.7 * factor)
        self.ratio_start, self.ratio_steps, self.has_retracted = self.first_ratio, 0, False
        self.names = {}  # blocks that others can use: name -> sequences that use it now
        self.idle = []  # ... those that none uses, the one that goes first in front

    # Memory

    def blocks(self, tokens):
        return -(-tokens // self.block_tokens)

    @property
    def free(self):
        return self.capacity - self.own - len(self.names) + len(self.idle)

    @property
    def own(self):
        return sum(self.blocks(sequence.computed) - sequence.held for sequence in self.running)

    def name(self, request, number):
        """What all before the end of a block is called: equal names, equal tokens."""
        end = (number + 1) * self.block_tokens
        prefix = request.prefix
        if prefix is not None and end <= prefix.tokens:
            return next(((one, end) for one, last in zip(prefix.ids, prefix.ends, strict=True) if end <= last))
        return "own", request.id, end

    def found(self, sequence):
        """Names of the blocks that need not be computed: all in front of the first one that is missing."""
        names = []
        for number in range((sequence.context - 1) // self.block_tokens if self.engine.caches_prefixes else 0):
            name = self.name(sequence.request, number)
            if name not in self.names:
                break
            names.append(name)
        return names

    def cached(self, sequence):
        """Tokens that need not be computed."""
        found = len(self.found(sequence))
        return self.block_tokens * (found + sum(self.stored(sequence, found)))

    def use(self, names):
        for name in names:
            if name in self.idle:
                self.idle.remove(name)
            self.names[name] = self.names.get(name, 0) + 1

    def publish(self, sequence):
        """Name all whole blocks that have been computed; copies of named ones are given back."""
        if self.engine.caches_prefixes:
            full = max(sequence.held, sequence.computed // self.block_tokens)
            names = [self.name(sequence.request, number) for number in range(sequence.held, full)]
            self.use(names)
            sequence.held = full
            for tier in self.tiers:
                tier.names = [name for name in tier.names if name not in names]

    def release(self, sequence):
        """Give up all blocks, the last one first."""
        self.publish(sequence)
        for number in reversed(range(sequence.held)):
            name = self.name(sequence.request, number)
            self.names[name] -= 1
            if not self.names[name]:
                self.idle.append(name)
        sequence.held = 0

    def evict(self):
        while self.idle and self.own + len(self.names) > self.capacity:
            name = self.idle.pop(0)
            del self.names[name]
            for tier in self.tiers:  # each takes what the one before evicts
                tier.names.append(name)
                if len(tier.names) <= tier.capacity:
                    break
                name = tier.names.pop(0)

    def stored(self, sequence, found):
        """How many blocks behind those found each tier has, up to the first that is nowhere."""
        counts = [0 for _ in self.tiers]
        for number in range(found, (sequence.context - 1) // self.block_tokens if self.engine.caches_prefixes else 0):
            name = self.name(sequence.request, number)
            has = [name in tier.names for tier in self.tiers]
            if not any(has):
                break
            counts[has.index(True)] += 1
        return counts

    def load(self, sequence, found, counts):
        """Reserve memory for the blocks on tiers and let them come; False: there is none."""
        now, tokens = self.reference.now, (len(found) + sum(counts)) * self.block_tokens
        needed = sum(counts) + sum(name in self.idle for name in found)
        if self.prefill_first:
            needed += self.blocks(sequence.context) - self.blocks(tokens) + self.unfinished
        if not self.admits(sequence, needed):
            return False
        self.waiting.pop(0)
        self.use(found)
        sequence.held = len(found)
        if sequence.preemptions:
            self.recomputed += max(0, sequence.lost - tokens)
        else:
            sequence.cached, sequence.loaded = tokens, [count * self.block_tokens for count in counts]
        if sequence.admitted < 0:
            sequence.admitted = now
        sequence.queue += now - sequence.since
        sequence.since, sequence.start = now, -1
        sequence.computed, sequence.goal = tokens, sequence.context
        sequence.in_steps, sequence.is_loading = 1, True
        sequence.reserved = self.expected(sequence)
        self.running.append(sequence)
        self.evict()
        ready = now
        for number, blocks in enumerate(counts):
            for stage in range(len(self.stages)) if blocks else ():
                at = now
                for tier in reversed(self.tiers[: number + 1]):
                    at = tier.pass_link(stage, at, blocks)
                ready = max(ready, at)
        self.reference.call_at(ready, self.take_in, sequence)
        return True

    def take_in(self, sequence):
        now = self.reference.now
        sequence.in_steps, sequence.is_loading = 0, False
        sequence.load += now - sequence.since
        sequence.since = now
        self.publish(sequence)
        self.is_touched = True

    @property
    def left(self):
        """What the step that is being formed leaves of the budget."""
        return max(self.budget - sum(part.tokens for part in self.parts), 0)

    # What comes in

    def submit(self, sequence):
        sequence.replica = self
        self.travelling.append(sequence)
        wire = self.reference.wire(COORDINATOR, self.stages[0].node.id)
        wire.send(sequence.prompt, self.receive, sequence)

    def receive(self, sequence):
        now = self.reference.now
        sequence.network += now - sequence.arrival
        sequence.since = now
        self.travelling.remove(sequence)
        here = [other.rank for other in self.waiting + self.unread + self.running]
        sequence.rank = min(self.ranks, key=here.count)
        self.unread.append(sequence)
        self.is_touched = True

    def send_back(self, step):
        self.reference.call_at(self.reference.now + self.return_ns, self.take, step)

    def take(self, step):
        """A step is back: its tokens are known."""
        now = self.reference.now
        self.is_touched = True
        self.in_flight.remove(step)
        for part in step.parts:
            part.sequence.in_steps -= 1
        tokens = [(part.sequence, part.gained) for part in step.parts if part.samples]
        for part in [part for part in step.parts if part.samples]:
            sequence = part.sequence
            sequence.generated += part.gained
            sequence.network += now - step.sent
            sequence.since = now
            if part.is_chunk:
                sequence.yields = self.draw(sequence)
            if sequence.generated == sequence.output:
                self.running.remove(sequence)
                self.release(sequence)
        if tokens:
            self.reference.call_at(now + self.client_ns, self.reference.deliver, tokens)

    def draw(self, sequence):
        """Tokens that each decode step will give a sequence."""
        left, law = sequence.output - sequence.generated, self.engine.speculation
        if law is None:
            return [1] * left
        return law.step_tokens(left, self.reference.inputs.seed, sequence.request.id, sequence.generated).tolist()

    # Steps

    def look(self):
        """At the end of an instant, form steps of all that is here; they wait for the first stage."""
        is_touched, self.is_touched = self.is_touched, False
        while is_touched and len(self.in_flight) < len(self.stages):
            self.form()
            while not self.parts and self.has_rejected:
                self.form()
            self.peak = max(self.peak, self.capacity - self.free)
            if not self.parts:
                if not self.running and not self.waiting:
                    self.ratio_start, self.ratio_steps = self.first_ratio, 0
                break
            if not self.has_retracted and not any(part.is_chunk for part in self.parts):
                self.ratio_steps += 1
            self.has_changed = True
            self.go(Step(self.parts))

    @property
    def ratio(self):
        """What share of the output that running sequences may still generate admission keeps memory for."""
        if self.first_ratio is None or not self.ratio_steps:
            return self.ratio_start
        fall = (self.first_ratio - self.first_ratio * 0.14) / 600
        return max(self.first_ratio * 0.14, self.ratio_start - self.ratio_steps * fall)

    def form(self):
        self.parts, self.has_preempted, self.has_rejected, self.has_retracted = [], False, False, False
        if not 0 < self.since_read < self.engine.scheduler_recv_interval or not self.running:
            self.waiting, self.unread, self.since_read = self.in_order(self.waiting + self.unread), [], 0
        is_open, lacking, gathering = self.opening()
        if self.prefill_first:
            self.take_chunks()
            self.take_waiting(is_open)
            if not self.parts:
                self.take_decodes()
        else:
            self.take_decodes()
            self.take_chunks()
            self.take_waiting(is_open)
        if self.parts:
            self.lacking, self.gathering = lacking, gathering
            has_chunks = any(part.is_chunk for part in self.parts)
            self.since_read = self.engine.scheduler_recv_interval if has_chunks else self.since_read + 1

    def opening(self):
        """Whether attention ranks let the step admit requests, and both counts of steps if it is formed."""
        if self.balance is None:
            return True, 0, 0
        waiting = {sequence.rank for sequence in self.waiting + self.unread}
        all_run = {sequence.rank for sequence in self.running} == set(self.ranks)
        if waiting == set(self.ranks):
            if not all_run:
                return True, 0, self.gathering
            if self.gathering < self.balance.batching_wait_iters:
                return False, 0, self.gathering + 1
            return True, 0, 0
        if not all_run or self.lacking + 1 >= self.balance.timeout_iters:
            return True, 0, self.gathering
        return False, self.lacking + 1, self.gathering

    def go(self, step):
        now = self.reference.now
        for part in step.parts:
            sequence = part.sequence
            sequence.in_steps += 1
            if sequence.admitted < 0:
                sequence.admitted = now
            if part.before == sequence.start or not part.is_chunk:
                sequence.queue += now - sequence.since
        self.steps.append(step)
        self.in_flight.append(step)
        self.stages[0].receive(step)

    def put(self, sequence, tokens, kept=None):
        is_chunk, kept = sequence.is_unfinished, kept or tokens
        self.parts.append(Part(sequence, tokens, kept))
        sequence.computed += kept
        self.evict()
        if is_chunk:
            self.publish(sequence)

    def in_order(self, sequences):
        """Sequences by their rank, the first one first: by priority, then as they are."""
        if self.engine.scheduling_policy != "priority":
            return list(sequences)
        return sorted(sequences, key=lambda sequence: sequence.request.priority)

    def movable(self, ranked):
        """The last of those that are in no step in flight, and have no chunk in the one that is being formed."""
        taken = [part.sequence for part in self.parts if part.is_chunk]
        return next((one for one in reversed(ranked) if not one.in_steps and one not in taken), None)

    def take_decodes(self):
        while True:
            ready = [sequence for sequence in self.running if sequence.has_token]
            lacking = sum(map(self.needs, ready)) - self.free
            if lacking <= 0:
                break
            ranked = self.in_order(self.running)
            victim = self.movable(ranked)
            if victim in ready and lacking <= self.needs(victim) and victim is not ranked[-1]:
                ready.remove(victim)  # those behind it are in flight: one of them will be preempted
                break
            self.has_retracted = True
            if self.running == [victim]:
                self.reject(victim)
            else:
                self.preempt(victim)
        if self.has_retracted and ready and self.first_ratio is not None:
            generated = sum(sequence.generated for sequence in ready)
            expected = sum(self.reference.expected(sequence) - sequence.prompt for sequence in ready)
            self.ratio_start, self.ratio_steps = min(1.0, (generated + 20 * len(ready)) / (expected + 1)), 0
        for sequence in ready:
            self.put(sequence, 1 + self.drafts, sequence.yields.pop(0))

    def needs(self, sequence):
        """Blocks of the next step of a decoding sequence: for the draft tokens that will be accepted, too."""
        return self.blocks(sequence.computed + sequence.yields[0]) - self.blocks(sequence.computed)

    def take_chunks(self):
        for sequence in list(self.running):
            if sequence not in self.running or not sequence.is_unfinished or sequence.is_loading or not self.left:
                continue
            tokens = self.chunk(sequence.goal - sequence.computed)
            needed = self.blocks(sequence.computed + tokens) - self.blocks(sequence.computed)
            while needed > self.free:
                ranked = self.in_order(self.running)
                later = ranked[ranked.index(sequence) :]
                victim = self.movable(later)
                if victim is None or (victim is sequence and len(later) > 1):
                    break
                self.preempt(victim)
                if victim is sequence:
                    break
            else:
                self.put(sequence, tokens)

    def take_waiting(self, is_open):
        while is_open and (
            not (self.has_preempted and self.running) and self.waiting and self.left and len(self.running) < self.most
        ):
            sequence = self.waiting[0]
            if sequence.is_remote:
                if not self.expect(sequence):
                    break
                continue
            found = self.found(sequence)
            if any(stored := self.stored(sequence, len(found))):
                if not self.load(sequence, found, stored):
                    break
                continue
            cached = len(found) * self.block_tokens
            tokens = self.chunk(sequence.context - cached)
            missing = sum(name in self.idle for name in found) - len(found)
            needed = self.blocks(cached + tokens) + missing
            if self.prefill_first:  # what is admitted must not lack memory later, as decodes would wait for ever
                needed = self.blocks(sequence.context) + missing + self.unfinished
            if (tokens > self.left and self.parts) or not self.admits(sequence, needed):
                break
            self.waiting.pop(0)
            self.use(found)
            if sequence.preemptions:
                self.recomputed += max(0, sequence.lost - cached)
            else:
                sequence.cached = cached
            sequence.computed = sequence.start = cached
            sequence.held = len(found)
            self.running.append(sequence)
            sequence.goal = sequence.context
            sequence.reserved = self.expected(sequence)
            self.put(sequence, tokens)

    def admits(self, sequence, blocks):
        """Whether there is memory for the first chunk of a waiting request, as the engine has it."""
        if not self.running:
            return blocks <= self.free
        if blocks > self.free - int(self.engine.min_free_share * self.capacity):
            return False
        if self.engine.admission == "prompt":
            return True
        return self.keeps(self.expected(sequence))

    def keeps(self, coming):
        """Whether blocks for others leave those that running sequences may need."""
        reserved = sum(other.reserved for other in self.running)
        if self.first_ratio is None:
            return reserved + coming <= self.most_reserved
        share, used = self.ratio, self.capacity - self.free
        return used + share * max(reserved - used, 0) + coming <= self.most_reserved

    def could_admit(self, sequence):
        """Whether a request could be admitted at once, after all that have been submitted."""
        outside = self.outside
        if not outside + self.running:
            return self.blocks(sequence.prompt) <= self.free
        if len(outside + self.running) >= self.most:
            return False
        promised = sum(self.blocks(one.context) for one in [*outside, sequence])
        if promised + self.unfinished > self.free - int(self.engine.min_free_share * self.capacity):
            return False
        return self.engine.admission == "prompt" or self.keeps(sum(map(self.expected, [*outside, sequence])))

    @property
    def unfinished(self):
        """Blocks that the prompts of running sequences still need."""
        return sum(self.blocks(one.goal) - self.blocks(one.computed) for one in self.running if one.is_unfinished)

    @property
    def most_reserved(self):
        return int(self.reference.inputs.high_water * self.capacity)

    def expected(self, sequence):
        """Blocks that a sequence is expected to fill in the end."""
        return self.blocks(max(self.reference.expected(sequence), sequence.context + 1))

    def chunk(self, remaining):
        """Tokens of a prompt that a step takes; without chunks they may be more than are left."""
        if not self.engine.chunks_prompts:
            return remaining
        threshold = self.engine.long_prefill_token_threshold
        return min(remaining, self.left, threshold or remaining, self.of_one_rank)

    def drop(self, sequence):
        """Take a sequence out of the running ones, and out of the step that is being formed."""
        self.running.remove(sequence)
        sequence.computed -= sum(part.kept for part in self.parts if part.sequence is sequence)
        self.parts = [part for part in self.parts if part.sequence is not sequence]
        self.release(sequence)
        sequence.lost, sequence.computed, sequence.goal = sequence.computed, 0, 0

    def preempt(self, sequence):
        self.has_preempted = True
        self.preemptions += 1
        sequence.preemptions += 1
        if sequence.is_unfinished:
            sequence.since = self.reference.now
        self.drop(sequence)
        self.waiting = self.in_order([sequence, *self.waiting])

    def reject(self, sequence):
        """It has outgrown the replica, which is empty now; the client learns it after all of its tokens."""
        self.has_rejected = self.has_changed = True
        self.drop(sequence)
        sequence.status = RequestStatus.REJECTED
        self.reference.call_at(self.reference.now + self.client_ns, self.reference.replace)

    @property
    def outside(self):
        return self.travelling + self.unread + self.waiting

    def sequences(self):
        return self.outside + self.running


class Node:
    """A placed node and its totals."""

    def __init__(self, node_id, layers):
        self.id, self.range = node_id, layers
        self.batches = self.prompt_tokens = self.decode_tokens = 0
        self.busy = []


class View:
    """What a routing policy sees when it routes a request."""

    def __init__(self, reference, sequence):
        self.reference, self.sequence = reference, sequence

    def replica(self, node):
        return next(r for r in self.reference.replicas if any(hop.node == node for hop in r.hops))

    def fits(self, hop):
        replica = self.replica(hop.node)
        if self.sequence.prompt + 1 > replica.capacity * replica.block_tokens:
            return False
        if self.reference.feed.mode is not FeedMode.SATURATE:
            return True
        return replica.could_admit(self.sequence)

    def queue_length(self, node):
        replica = self.replica(node)
        return len(replica.waiting) + len(replica.unread) + len(replica.travelling)

    def prompt_backlog(self, node):
        replica = self.replica(node)
        computing = sum(max(0, sequence.goal - sequence.computed) for sequence in replica.running)
        return computing + sum(sequence.context for sequence in replica.outside)

    def in_flight(self, node):
        return len(self.replica(node).sequences())

    def in_flight_tokens(self, node):
        return sum(sequence.context for sequence in self.replica(node).sequences())

    def kv_usage(self, node):
        replica = self.replica(node)
        return (replica.capacity - replica.free) / replica.capacity if replica.capacity else 1.0

    def cached_tokens(self, node):
        replica = self.replica(node)
        return replica.cached(self.sequence)

    def transfer_ns(self, node):
        return 0.0


class Reference:
    """The coordinator, its clients, and the whole."""

    replica_kind = Replica

    def __init__(self, inputs):
        self.inputs, self.fleet, self.feed = inputs, inputs.fleet, inputs.feed
        assert inputs.engine.loops_inside
        assert not self.fleet.cluster.network.is_shared
        assert self.feed.feed_below is None
        self.now, self.events, self.numbers = 0, [], count()
        self.nodes = [Node(node_id, layers) for node_id, layers in inputs.placement.ranges.items()]
        cards = {node.id: node.nic_bps for node in self.fleet.cluster.nodes}
        cards[COORDINATOR] = self.fleet.cluster.network.coordinator_nic_bps
        self.cards_out = {end: Card(bps) for end, bps in cards.items() if bps}
        self.cards_in = {end: Card(bps) for end, bps in cards.items() if bps}
        self.wires = {}
        self.replicas = [self.replica_kind(self, self.chain(hop)) for hop in inputs.graph.first]
        self.largest = max(r.capacity * r.block_tokens for r in self.replicas)
        self.sequences, self.arrived, self.gaps = [], [], []
        self.held = []  # those that the policy gave no route
        self.standing = None  # under saturation: the request that is to be submitted next
        window = inputs.window
        self.window_end = None if window.duration_ns is None else window.warmup_ns + window.duration_ns

    def chain(self, hop):
        hops = [hop]
        while following := self.inputs.graph.successors[hops[-1].node]:
            (one,) = following
            hops.append(one)
        return tuple(hops)

    def latency(self, src, dst):
        return self.fleet.cluster.link(src, dst).latency_ns + self.inputs.engine.message_overhead_ns

    def wire(self, src, dst):
        if (src, dst) not in self.wires:
            self.wires[src, dst] = Wire(self, src, dst)
        return self.wires[src, dst]

    def call_at(self, time, function, *arguments):
        heapq.heappush(self.events, (time, next(self.numbers), function, arguments))

    def run(self):
        if self.feed.mode is FeedMode.OPEN:
            self.plan_arrival()
        elif self.feed.mode is FeedMode.CLOSED_LOOP:
            for _ in range(self.feed.concurrency):
                self.launch()
        self.end_instant()
        while self.events:
            time = self.events[0][0]
            if self.window_end is not None and not self.inputs.window.drain and time > self.window_end:
                self.now = self.window_end
                break
            self.now = time
            self.happen()
            self.end_instant()
        return self

    def happen(self):
        """Let all that is due now happen: deliveries, ends of computations, tokens at the client."""
        while self.events and self.events[0][0] == self.now:
            _, _, function, arguments = heapq.heappop(self.events)
            function(*arguments)

    def end_instant(self):
        """Route what has arrived; then, as all has come in, form steps."""
        self.coordinate()
        self.happen()
        while self.arrived:
            self.coordinate()
            self.happen()
        for replica in self.replicas:
            replica.look()
            if replica.has_changed:
                replica.has_changed = False
                self.call_at(self.now, lambda: None)  # what stands outside may fit now

    # Arrivals

    def plan_arrival(self):
        request = next(self.feed.requests, None)
        if request is not None:
            self.call_at(request.arrival_ns, self.come, request)

    def come(self, request):
        self.enter(request)
        self.plan_arrival()

    def launch(self):
        """Let the next request that can be served at all arrive now."""
        request = next(self.feed.requests, None)
        while request is not None and not self.enter(request):
            request = next(self.feed.requests, None)

    def replace(self):
        """A request has ended: those without a route are asked about again, and a closed loop goes on."""
        self.arrived += self.held
        self.held = []
        if self.feed.mode is FeedMode.CLOSED_LOOP:
            self.launch()

    def enter(self, request):
        room = self.fleet.model.max_context_tokens - request.prompt_tokens
        sequence = Sequence(request, min(request.output_tokens, room), self.now)
        if room < 1 or sequence.prompt + 1 > self.largest:
            sequence.status = RequestStatus.REJECTED
            self.sequences.append(sequence)
            return False
        if self.feed.mode is FeedMode.SATURATE:
            self.standing = sequence
        else:
            self.sequences.append(sequence)
            self.arrived.append(sequence)
        return True

    def coordinate(self):
        while self.arrived:
            sequence = self.arrived.pop(0)
            replica = self.route(sequence)
            if replica is not None:
                replica.submit(sequence)
            elif any(s.replica is not None and s.status is RequestStatus.WAITING for s in self.sequences):
                self.held.append(sequence)
            else:
                sequence.status = RequestStatus.REJECTED
                self.replace()
        if self.feed.mode is FeedMode.SATURATE:
            self.saturate()

    def saturate(self):
        while True:
            submitted = [sequence for replica in self.replicas for sequence in replica.sequences()]
            limit = self.feed.prompts_in_flight
            if limit is not None and sum(not sequence.generated for sequence in submitted) >= limit:
                break
            if self.standing is None:
                self.launch()
            sequence = self.standing
            if sequence is None:
                break
            replica = self.route(sequence)
            if replica is None and submitted:
                break
            self.standing = None
            self.sequences.append(sequence)
            sequence.arrival = sequence.since = self.now
            if replica is None:
                sequence.status = RequestStatus.REJECTED
            else:
                replica.submit(sequence)

    def route(self, sequence):
        expected = max(self.expected(sequence), sequence.prompt + 1)
        hops = self.inputs.policy.route(sequence.prompt, expected, View(self, sequence))
        return None if hops is None else next(r for r in self.replicas if r.hops == tuple(hops))

    def expected(self, sequence):
        expected = round(self.inputs.expected_output_tokens)
        clipped = self.inputs.engine.schedule_conservativeness is not None
        return sequence.prompt + (min(expected, 4096) if clipped else expected)

    # Clients

    def deliver(self, tokens):
        """Tokens reach their clients."""
        window = self.inputs.window
        for sequence, number in tokens:
            sequence.delivered += number
            if sequence.first_token < 0:
                sequence.first_token = self.now
            elif window.warmup_ns < self.now and (self.window_end is None or self.now <= self.window_end):
                self.gaps.append(self.now - sequence.last_token)
            sequence.last_token = self.now
            if sequence.delivered == sequence.output:
                sequence.status, sequence.finish = RequestStatus.FINISHED, self.now
                sequence.network += sequence.replica.client_ns
                self.replace()

    def status(self, sequence):
        """State at the end of the run."""
        if sequence.status is not RequestStatus.WAITING:
            return sequence.status
        is_outside = sequence in sequence.replica.outside if sequence.replica else True
        return RequestStatus.WAITING if is_outside else RequestStatus.RUNNING
