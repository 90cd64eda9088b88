"""A node at work: it queues cohorts, forms batches, computes them and sends them on."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any

from helixsim.batching.base import BatchingPolicy
from helixsim.domain.cluster import COORDINATOR, TOKEN_ID_BYTES
from helixsim.domain.hardware import BatchLimits, ComputeProfile
from helixsim.domain.placement import LayerRange
from helixsim.engine.kernel import Call, Kernel, Priority
from helixsim.engine.network import Channel, NetworkFabric
from helixsim.engine.state import Cohort

_by_arrival = attrgetter("arrived_ns", "number")

Observe = Callable[[int, int, int], None]


class Worker:
    """One placed node.

    ``receivers`` maps the number of the next worker, or -1 for the coordinator, to (its id, its ``receive``); it is
    filled when all workers exist.
    """

    __slots__ = (
        "_batch",
        "_channels",
        "_compute",
        "_decode_seqs",
        "_decodes",
        "_dispatch_pending",
        "_fabric",
        "_kernel",
        "_layer_ns",
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
        self._prefills: list[Cohort] = []
        self._decodes: list[Cohort] = []
        self._decode_seqs = 0
        self._batch: tuple[list[Cohort], list[Cohort]] = ([], [])
        self._started_ns = 0
        self._dispatch_pending = False
        self._channels: dict[int, Channel] = {}
        self._layer_ns: dict[tuple[int, int], float] = {}

    @property
    def queue_length(self) -> int:
        """Requests that wait for a batch."""
        return len(self._prefills) + self._decode_seqs

    def busy_until(self, now_ns: int) -> int:
        """Return the time spent computing up to now [ns], the running batch's part included."""
        return self.busy_ns + (now_ns - self._started_ns if self.is_busy else 0)

    def receive(self, cohorts: list[Cohort], elapsed_ns: int) -> None:
        """Queue cohorts that have just arrived after ``elapsed_ns`` on the network."""
        now = self._kernel.now_ns
        for cohort in cohorts:
            cohort.network_ns += elapsed_ns
            cohort.arrived_ns = now
            if cohort.is_prefill:
                self._prefills.append(cohort)
            else:
                self._decodes.append(cohort)
                self._decode_seqs += cohort.tokens
        if not self.is_busy:
            self._plan_dispatch()

    def _plan_dispatch(self) -> None:
        if not self._dispatch_pending:
            self._dispatch_pending = True
            self._kernel.call_in(0, Priority.DISPATCH, self._dispatch, None)

    def _dispatch(self, _event: Call) -> None:
        """Form and start a batch."""
        self._dispatch_pending = False
        now = self._kernel.now_ns
        if len(self._prefills) > 1:
            self._prefills.sort(key=_by_arrival)
        num_prefills, num_decodes = self._policy.plan(
            [cohort.tokens for cohort in self._prefills], self._decode_seqs, self._limits
        )
        prefills, self._prefills = self._prefills[:num_prefills], self._prefills[num_prefills:]
        decodes = self._take_decodes(num_decodes)
        self._batch = (prefills, decodes)
        duration = self._duration_ns(prefills, decodes)
        for cohorts in (prefills, decodes):
            for cohort in cohorts:
                cohort.queue_ns += now - cohort.arrived_ns
                cohort.compute_ns += duration
        self.is_busy = True
        self.batches += 1
        self._started_ns = now
        self._kernel.call_in(duration, Priority.FINISH, self._finish, None)

    def _take_decodes(self, count: int) -> list[Cohort]:
        """Remove ``count`` sequences from the front of the decode queue, splitting a cohort if need be."""
        if count == self._decode_seqs:
            taken, self._decodes = self._decodes, []
        else:
            self._decodes.sort(key=_by_arrival)
            left, end = count, 0
            while left and left >= self._decodes[end].tokens:
                left -= self._decodes[end].tokens
                end += 1
            taken, self._decodes = self._decodes[:end], self._decodes[end:]
            if left:
                taken.append(self._decodes[0].split(left))
        self._decode_seqs -= count
        return taken

    def _duration_ns(self, prefills: list[Cohort], decodes: list[Cohort]) -> int:
        """Return how long the batch takes: the sum over layers of the work active in each, and one copy in.

        Requests may enter in the middle of the node's range, so that its later layers have more work than the first.
        """
        compute = self._compute
        first, end = self.range.start, self.range.end
        tokens = 0
        entries: dict[int, list[int]] = {}
        for cohorts in (prefills, decodes):
            for cohort in cohorts:
                tokens += cohort.tokens
                work = entries.setdefault(cohort.path.stages[cohort.hop].start, [0, 0, 0])
                if cohort.is_prefill:
                    work[0] += cohort.tokens
                else:
                    work[1] += cohort.tokens
                    work[2] += cohort.context_tokens
        starts = sorted(entries) if len(entries) > 1 else list(entries)
        prompt = seqs = context = 0
        duration = compute.activation_copy_ns_per_token * tokens
        for position, start in enumerate(starts):
            work = entries[start]
            prompt += work[0]
            seqs += work[1]
            context += work[2]
            layers = (starts[position + 1] if position + 1 < len(starts) else end) - start
            layer_ns = self._layer_ns.get((prompt, seqs))
            if layer_ns is None:
                layer_ns = self._layer_ns[prompt, seqs] = compute.prefill(prompt) + compute.decode(seqs)
            duration += layers * (layer_ns + compute.decode_context_ns_per_token * context)
        if starts and starts[0] < first:
            raise ValueError(f"layer {starts[0]} is not on {self.node_id}")
        self.prompt_tokens += prompt
        self.decode_tokens += seqs
        return round(duration)

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
            self._plan_dispatch()

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
        else:
            size = self._token_bytes * sum([cohort.tokens for cohort in cohorts])
        self._fabric.send(channel, size, receive, cohorts)
