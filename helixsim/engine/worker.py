"""A node at work: it queues cohorts, forms batches, computes them and sends them on."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any

from helixsim.batching.base import BatchingPolicy
from helixsim.domain.cluster import COORDINATOR, TOKEN_ID_BYTES
from helixsim.domain.engine import EngineSpec
from helixsim.domain.hardware import BatchLimits, ComputeProfile
from helixsim.domain.placement import LayerRange
from helixsim.engine.kernel import Call, Kernel, Priority
from helixsim.engine.network import Channel, NetworkFabric
from helixsim.engine.state import Cohort

_by_arrival = attrgetter("arrived_ns", "number")

Observe = Callable[[int, int, int], None]


class Worker:
    """One placed node.

    ``has_inner_entries``: requests may enter in the middle of its layers (partial inference). ``observe`` is told how
    long each cohort took from being sent to being computed. ``is_one_by_one``: requests travel one by one, so that the
    first to arrive starts a batch without the others; else those of a batch that go the same way arrive together.
    ``receivers`` maps the number of the next worker, or -1
    for the coordinator, to (its id, its ``receive``); it is filled when all workers exist.
    """

    __slots__ = (
        "_batch",
        "_channels",
        "_compute",
        "_decode_seqs",
        "_decodes",
        "_engine",
        "_fabric",
        "_floor_ns",
        "_gather_ns",
        "_has_inner_entries",
        "_is_one_by_one",
        "_kernel",
        "_known_layer_ns",
        "_limits",
        "_observe",
        "_policy",
        "_prefills",
        "_started_ns",
        "_token_bytes",
        "batches",
        "busy_ns",
        "decode_tokens",
        "is_busy",
        "is_gathering",
        "node_id",
        "prompt_tokens",
        "range",
        "receivers",
    )

    def __init__(
        self,
        node_id: str,
        layer_range: LayerRange,
        compute: ComputeProfile,
        limits: BatchLimits,
        activation_bytes_per_token: int,
        policy: BatchingPolicy,
        kernel: Kernel,
        fabric: NetworkFabric,
        observe: Observe | None,
        has_inner_entries: bool,
        is_one_by_one: bool,
        engine: EngineSpec,
    ) -> None:
        self.node_id = node_id
        self.range = layer_range
        self.receivers: dict[int, tuple[str, Callable[[Any, int], None]]] = {}
        self.is_busy = False
        self.busy_ns = 0
        self.batches = 0
        self.prompt_tokens = 0
        self.decode_tokens = 0
        self._compute = compute
        self._limits = limits
        self._token_bytes = activation_bytes_per_token + TOKEN_ID_BYTES
        self._policy = policy
        self._kernel = kernel
        self._fabric = fabric
        self._observe = observe
        self._has_inner_entries = has_inner_entries
        self._is_one_by_one = is_one_by_one
        self._engine = engine
        self._gather_ns = engine.gather_ns
        self._floor_ns = min(compute.decode(1), layer_ns(compute, engine, 0, 1))
        self.is_gathering = False
        self._prefills: list[Cohort] = []
        self._decodes: list[Cohort] = []
        self._decode_seqs = 0
        self._batch: tuple[list[Cohort], list[Cohort]] = ([], [])
        self._started_ns = 0
        self._channels: dict[int, Channel] = {}
        self._known_layer_ns: dict[tuple[int, int], float] = {}

    @property
    def queue_length(self) -> int:
        """Requests that wait for a batch."""
        return len(self._prefills) + self._decode_seqs

    def has_ready_work(self, now_ns: int) -> bool:
        """Whether a request that waits for a batch has arrived in full."""
        return bool(self._prefills) or any(cohort.arrived_ns <= now_ns for cohort in self._decodes)

    def busy_until(self, now_ns: int) -> int:
        """Return the time spent computing up to now [ns], the running batch's part included."""
        return self.busy_ns + (now_ns - self._started_ns if self.is_busy else 0)

    def receive(self, cohorts: list[Cohort], elapsed_ns: int) -> None:
        """Queue cohorts, the first of which arrives now after ``elapsed_ns`` on the network."""
        now = self._kernel.now_ns
        offset = 0
        for cohort in cohorts:
            cohort.network_ns += elapsed_ns + offset
            cohort.arrived_ns = now + offset
            offset += cohort.spacing_ns * cohort.tokens
            if cohort.is_prefill:
                self._prefills.append(cohort)
            else:
                self._decodes.append(cohort)
                self._decode_seqs += cohort.tokens
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
        """Form and start a batch, unless one is running; if nothing has arrived in full yet, come back when it has."""
        self.is_gathering = False
        if self.is_busy or not (self._prefills or self._decodes):
            return
        now = self._kernel.now_ns
        ready = self._decode_seqs
        if self._is_one_by_one:
            ready = sum([cohort.arrived_by(now) for cohort in self._decodes])
            if not (ready or self._prefills):
                first = min([cohort.arrived_ns for cohort in self._decodes])
                self._kernel.call_in(first - now, Priority.DISPATCH, self._dispatch, None)
                return
        if len(self._prefills) > 1:
            self._prefills.sort(key=_by_arrival)
        num_prefills, num_decodes = self._policy.plan([cohort.tokens for cohort in self._prefills], ready, self._limits)
        prefills, self._prefills = self._prefills[:num_prefills], self._prefills[num_prefills:]
        decodes = self._take_decodes(num_decodes, now)
        self._batch = (prefills, decodes)
        duration = self._duration_ns(prefills, decodes, num_decodes)
        for cohorts in (prefills, decodes):
            for cohort in cohorts:
                cohort.queue_ns += now - cohort.arrived_ns
                cohort.compute_ns += duration
        self.is_busy = True
        self.batches += 1
        self._started_ns = now
        self._kernel.call_in(duration, Priority.FINISH, self._finish, None)

    def _take_decodes(self, count: int, now_ns: int) -> list[Cohort]:
        """Remove ``count`` sequences that have arrived from the front of the queue, splitting cohorts if need be."""
        if count == self._decode_seqs:
            taken, self._decodes = self._decodes, []
        else:
            self._decodes.sort(key=_by_arrival)
            taken, kept, left = [], [], count
            for cohort in self._decodes:
                part = min(left, cohort.arrived_by(now_ns)) if left else 0
                left -= part
                if part == cohort.tokens:
                    taken.append(cohort)
                    continue
                if part:
                    taken.append(cohort.split(part))
                kept.append(cohort)
            self._decodes = kept
        self._decode_seqs -= count
        return taken

    def _duration_ns(self, prefills: list[Cohort], decodes: list[Cohort], seqs: int) -> int:
        """Return how long the batch takes: the work active in each layer, one copy in, and the engine's own time."""
        compute, engine = self._compute, self._engine
        prompt = sum([cohort.tokens for cohort in prefills]) if prefills else 0
        self.prompt_tokens += prompt
        self.decode_tokens += seqs
        if self._has_inner_entries:
            layers_ns = self._layers_ns_by_entry(prefills, decodes)
        else:
            layers_ns = (self.range.end - self.range.start) * self._layer_ns(prompt, seqs, decodes)
        overhead_ns = engine.batch_overhead_ns + engine.sequence_overhead_ns * (len(prefills) + seqs)
        return round(layers_ns + compute.activation_copy_ns_per_token * (prompt + seqs) + overhead_ns)

    def _layer_ns(self, prompt: int, seqs: int, decodes: list[Cohort]) -> float:
        """Return the time of one layer in which ``prompt`` tokens and the sequences of ``decodes`` are active."""
        known = self._known_layer_ns.get((prompt, seqs))
        if known is None:
            known = self._known_layer_ns[prompt, seqs] = layer_ns(self._compute, self._engine, prompt, seqs)
        if seqs and self._compute.decode_context_ns_per_token:
            context = sum([cohort.context_tokens for cohort in decodes])
            return max(known + self._compute.context_ns(seqs, context), self._floor_ns)
        return known

    def _layers_ns_by_entry(self, prefills: list[Cohort], decodes: list[Cohort]) -> float:
        """Return the time of all layers where requests enter in the middle: later layers have more work than the first.

        All requests run to the node's last layer, so the work only grows from one entry to the next.
        """
        entry_of = {id(cohort): cohort.path.stages[cohort.hop].start for cohort in prefills + decodes}
        entries = sorted(set(entry_of.values()))
        total_ns = 0.0
        for entry, following in zip(entries, [*entries[1:], self.range.end], strict=True):
            active = [cohort for cohort in decodes if entry_of[id(cohort)] <= entry]
            prompt = sum([cohort.tokens for cohort in prefills if entry_of[id(cohort)] <= entry])
            seqs = sum([cohort.tokens for cohort in active])
            total_ns += (following - entry) * self._layer_ns(prompt, seqs, active)
        return total_ns

    def _finish(self, _event: Call) -> None:
        """Send the finished batch on, decode steps first: they are small and somebody waits for each."""
        kernel = self._kernel
        now = kernel.now_ns
        self.is_busy = False
        self.busy_ns += now - self._started_ns
        prefills, decodes = self._batch
        groups: dict[int, list[Cohort]] = {}
        for cohort in decodes:
            groups.setdefault(self._advance(cohort, now), []).append(cohort)
        for target, cohorts in groups.items():
            self._send(target, cohorts)
        for cohort in prefills:
            self._send(self._advance(cohort, now), [cohort])
        if self._prefills or self._decodes:
            self._dispatch_at_end_of_instant()

    def _advance(self, cohort: Cohort, now_ns: int) -> int:
        """Book the stage as done and return the number of the next worker, -1 for the coordinator."""
        stages = cohort.path.stages
        stage = stages[cohort.hop]
        if self._observe is not None:
            self._observe(stage.edge, now_ns - cohort.sent_ns, len(cohort.requests))
        cohort.layers_done += stage.end - stage.start
        cohort.hop += 1
        cohort.sent_ns = now_ns
        return stages[cohort.hop].worker if cohort.hop < len(stages) else -1

    def _send(self, target: int, cohorts: list[Cohort]) -> None:
        node_id, receive = self.receivers[target]
        channel = self._channels.get(target)
        if channel is None:
            channel = self._channels[target] = self._fabric.channel(self.node_id, node_id)
        if node_id == COORDINATOR:
            size = TOKEN_ID_BYTES * sum([len(cohort.requests) for cohort in cohorts])
            self._fabric.send(channel, size, receive, cohorts)
        else:
            size = self._token_bytes * sum([cohort.tokens for cohort in cohorts])
            first = one_by_one(cohorts, self._token_bytes, channel) if self._is_one_by_one else None
            self._fabric.send(channel, size, receive, cohorts, first)


def layer_ns(compute: ComputeProfile, engine: EngineSpec, prompt: int, seqs: int) -> float:
    """Return the time of one layer [ns] for a batch of ``prompt`` prompt tokens and ``seqs`` decoding sequences."""
    prefill, decode = compute.prefill(prompt), compute.decode(seqs)
    launch = engine.layer_launch_ns
    if engine.shares_weight_reads:
        both = min(compute.prefill(1), decode) if prompt else 0.0
        return max(prefill + decode - both, launch)
    return (max(prefill, launch) if prompt else 0.0) + (max(decode, launch) if seqs else 0.0)


def one_by_one(cohorts: list[Cohort], token_bytes: int, channel: Channel) -> int | None:
    """Space the requests of a message by their transmission times; return the bytes of the first (None: a prompt)."""
    if cohorts[0].is_prefill:
        cohorts[0].spacing_ns = 0
        return None
    spacing_ns = max(1, round(token_bytes * channel.ns_per_byte))
    for cohort in cohorts:
        cohort.spacing_ns = spacing_ns
    return token_bytes
