"""What a node passes under a load, by itself: the part of the operating point that does not know of routes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from helixsim.domain.cluster import LinkSpec
from helixsim.domain.engine import IDEAL, EngineSpec
from helixsim.domain.hardware import NodeProfile
from helixsim.domain.placement import Placement
from helixsim.domain.step_time import BatchShape, StepTime, prefill_pairs
from helixsim.flow.capacity import CapacityTable
from helixsim.units import NS_PER_S

_BATCH_HALVINGS = 20
"""Batches are found to a millionth of the largest: they are looked for thousands of times."""

_FEWEST_CHUNK_TOKENS, _STEP_SIZES = 16.0, 12
"""Sizes of batches, and of chunks of prompts, of ``Station.steps``."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class OperatingLoad:
    """What is served, and how far memory is filled.

    Parameters
    ----------
    mean_prompt_tokens, mean_output_tokens
        Mean lengths [tokens].
    kv_share
        Share of a node's KV memory that admitted requests may be expected to need, 0..1.
    expected_output_tokens
        Output for which memory is reserved at admission [tokens].
    engine
        Overheads of the serving engine.
    prompt_spread
        Mean of squared prompt lengths over the square of their mean: long prompts are in the way more often.
    output_spread, joint_spread
        The same of outputs, and the mean of the products of both lengths over the product of the means: requests with
        long outputs are resident for longer. Outputs are exponential by default.
    recomputed_share
        Prompts that are computed again after preemptions, for each request, on nodes whose memory is full.
    """

    mean_prompt_tokens: float
    mean_output_tokens: float
    kv_share: float
    expected_output_tokens: float
    engine: EngineSpec = IDEAL
    prompt_spread: float = 1.0
    output_spread: float = 2.0
    joint_spread: float = 1.0
    recomputed_share: float = 0.0

    @property
    def tokens_of_step(self) -> float:
        """Tokens that a decode step gives a sequence: more than one with draft tokens."""
        return 1.0 if self.engine.speculation is None else self.engine.speculation.mean_tokens

    @property
    def mean_steps(self) -> float:
        """Decode steps of a request."""
        return self.mean_output_tokens / self.tokens_of_step

    def latency_s(self, link: LinkSpec) -> float:
        """Return the time from the end of a message on a link to its arrival, with the engine's overhead [s]."""
        return (link.latency_ns + self.engine.message_overhead_ns) / NS_PER_S

    def of_replicas(self) -> OperatingLoad:
        """Return the load for replicas of an engine, which keep some memory idle and find preempted prompts cached.

        Their law was checked against runs with the residents of exponential outputs, which take up as much more.
        """
        return replace(self, output_spread=2.0, joint_spread=1.0)

    def of_nodes(self) -> OperatingLoad:
        """Return the load for nodes that form steps of their own, where a preempted request begins again.

        Where requests are admitted by their prompts alone, what they grow by is taken from those that came last, which
        compute about as many tokens again as are generated.
        """
        if self.expected_output_tokens > 1.0:
            return self
        return replace(self, recomputed_share=self.mean_output_tokens / self.mean_prompt_tokens)

    @property
    def tokens_per_decode(self) -> float:
        """Tokens that a decode step of a sequence computes: its own and the drafts."""
        return 1.0 + self.engine.drafts

    @property
    def tokens_per_step(self) -> float:
        """Prompt and output tokens per decode step."""
        return (self.mean_prompt_tokens + self.mean_output_tokens) / self.mean_steps

    def resident_tokens(self, block_tokens: int) -> float:
        """Return the KV tokens reserved for a request, on average over those that are resident.

        A request is resident for as long as its output takes, so that the mean age of those that are is half the mean
        square of outputs over their mean. Outputs that outgrow what was expected go on growing; the ages are taken to
        be exponential. Half of the last block is empty.
        """
        expected, age = self.expected_output_tokens, self.mean_output_tokens * self.output_spread / 2
        prompt = self.mean_prompt_tokens * self.joint_spread
        return prompt + expected + age * math.exp(-expected / age) + block_tokens / 2


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """Where a placement settles under saturation.

    Parameters
    ----------
    output_tokens_per_s
        Output throughput; ``tokens_per_s`` counts prompts as well.
    requests
        Requests in flight.
    round_trip_s, offered_round_trip_s
        Mean time of a decode step under saturation, and under the offered load if that is less [s].
    capacity
        Tokens/s of each node, by its id, with the layers it holds.
    """

    output_tokens_per_s: float
    tokens_per_s: float
    requests: float
    round_trip_s: float
    offered_round_trip_s: float
    capacity: CapacityTable


@dataclass(frozen=True, slots=True)
class Settled:
    """Where routes settle under saturation.

    Parameters
    ----------
    steps_per_s, requests
        Decode steps/s, and requests in flight.
    most_steps_per_s
        Those of each node, by its id.
    round_trip_s
        Returns the mean time of a decode step [s] under a share, 0..1, of these steps/s.
    """

    steps_per_s: float
    requests: float
    most_steps_per_s: Mapping[str, float]
    round_trip_s: Callable[[float], float]


class _StepsOfEntries:
    """Step times where requests enter a node at different layers, in these shares (partial inference)."""

    def __init__(self, step_time: StepTime, shares: Mapping[int, float]) -> None:
        self._step_time = step_time
        self._shares = sorted(shares.items())

    def ns(self, shape: BatchShape) -> float:
        """See ``StepTime.ns``."""
        return self._step_time.ns_of_entries(
            [(layer, BatchShape(*(share * one for one in shape))) for layer, share in self._shares]
        )

    def decode_ns(self, seqs: float, context: float) -> float:
        """See ``StepTime.decode_ns``."""
        return self.ns(BatchShape(decode_seqs=seqs, decode_context=context, sampled=seqs))


class Station:
    """A kind of node with some layers under a load; times in seconds."""

    def __init__(
        self,
        profile: NodeProfile,
        layers: int,
        kv_tokens: float,
        load: OperatingLoad,
        step_time: StepTime | _StepsOfEntries,
        max_requests: int | None = None,
    ) -> None:
        limits = profile.limits[layers - 1]
        self._given = profile, layers, kv_tokens, load, max_requests
        self._step_time = step_time
        self._spread = load.prompt_spread
        self._prompt_tokens = load.mean_prompt_tokens
        self._waits_for_steps = load.engine.loops_inside
        self._chunks_prompts = load.engine.loops_inside and load.engine.chunks_prompts
        self._threshold = load.engine.long_prefill_token_threshold
        self._context = load.mean_prompt_tokens + load.mean_output_tokens / 2
        self._gather_ns = load.engine.gather_ns
        self._graph_sizes = limits.graph_sizes
        self._most_residing = min(kv_tokens / self._context, limits.max_decode_seqs)
        self.token_budget = limits.max_prefill_tokens
        self.most_requests = load.kv_share * kv_tokens / load.resident_tokens(profile.block_tokens)
        by_memory = self.most_requests
        if max_requests is not None:
            self.most_requests = min(self.most_requests, max_requests)
        if load.engine.loops_inside:  # an engine runs no more sequences than a step can hold
            self.most_requests = min(self.most_requests, limits.max_decode_seqs)
        self.is_bound_by_memory = self.most_requests == by_memory
        self._steps = load.mean_steps / (1 + load.recomputed_share * self.is_bound_by_memory)
        most = max(1.0, min(self.most_requests, limits.max_decode_seqs))
        if self._chunks_prompts:  # decodes count against the budget
            most = min(most, self.token_budget)
        self.most_batch = most
        self._last_batch = math.nan, math.nan
        # What a prompt adds; where it shares a step with decoding sequences, these read the weights anyway.
        pairs = load.prompt_spread * prefill_pairs(load.mean_prompt_tokens)
        prompt = BatchShape(load.mean_prompt_tokens, pairs, 1, sampled=1)
        beside = BatchShape()
        if load.engine.shares_weight_reads:
            beside = BatchShape(decode_seqs=most, decode_context=most * self._context, sampled=most)
        self.prompt_s = (step_time.ns(prompt.joined(beside)) - step_time.ns(beside)) / NS_PER_S
        self.most_steps_per_s = most / self.cycle_s(most)

    def entered(self, shares: Mapping[int, float], end: int) -> Station:
        """Return the station where requests enter at these layers, in these shares; ``end``: first layer behind it.

        Those that enter later compute fewer layers, and keep memory for fewer.
        """
        profile, layers, kv_tokens, load, max_requests = self._given
        assert isinstance(self._step_time, StepTime)
        computed = sum(share * (end - layer) for layer, share in shares.items()) / layers
        times = _StepsOfEntries(self._step_time, shares)
        return Station(profile, layers, kv_tokens / computed, load, times, max_requests)

    def steps(self) -> tuple[Floats, Floats, Floats]:
        """Return the decodes, the prompt tokens and the time [s] of steps that this node can compute.

        Batches have the sizes of CUDA graphs and others up to all sequences that memory holds at the mean context.
        """
        most = max(1.0, self._most_residing)
        sizes = {0.0, 1.0, most, *np.geomspace(1.0, most, _STEP_SIZES), *(n for n in self._graph_sizes if n <= most)}
        budget = float(self.token_budget)
        if not self._chunks_prompts:
            budget = max(budget, self._prompt_tokens)
        found = []
        for decodes in sorted(map(float, sizes)):
            room = budget - decodes
            chunks = np.geomspace(min(_FEWEST_CHUNK_TOKENS, room), room, _STEP_SIZES).tolist() if room >= 1.0 else []
            found += [(decodes, tokens, self._time_s(decodes, tokens)) for tokens in (0.0, *chunks) if decodes + tokens]
        decodes_of, tokens_of, times_s = np.array(found).T
        return decodes_of, tokens_of, times_s

    def prompt_alone_s(self) -> float:
        """Return the time of a prompt where nothing decodes, in steps as full as the token budget allows."""
        prompts = self.token_budget / self._prompt_tokens
        if not self._chunks_prompts:
            prompts = max(1.0, prompts)
        pairs = self._spread * prefill_pairs(self._prompt_tokens)
        seqs = max(1.0, prompts)
        step = BatchShape(prompts * self._prompt_tokens, prompts * pairs, seqs, sampled=seqs)
        return (self._step_time.ns(step) + self._gather_ns) / NS_PER_S / prompts

    def step_s(self, batch: float) -> float:
        """Return the time of a batch of decode steps."""
        return (self._step_time.decode_ns(batch, batch * self._context) + self._gather_ns) / NS_PER_S

    def mixed_s(self, batch: float, prompt_tokens: float) -> float:
        """Return the time of a step of so many decode steps, one at least, and of chunks of prompts."""
        return self._time_s(max(1.0, batch), prompt_tokens)

    def _time_s(self, seqs: float, prompt_tokens: float) -> float:
        """Return the time of a step of decodes, of chunks of prompts, or of both."""
        if not prompt_tokens:
            return self.step_s(seqs)
        prompts = max(1.0, prompt_tokens / self._prompt_tokens)
        pairs = self._spread * prompt_tokens * self._prompt_tokens / 2
        step = BatchShape(prompt_tokens, pairs, prompts, seqs, seqs * self._context, seqs + prompts)
        return (self._step_time.ns(step) + self._gather_ns) / NS_PER_S

    def cycle_s(self, batch: float, steps: float | None = None) -> float:
        """Return the time of a batch with the prompts that come with so many steps; None: as many as it has."""
        return self.step_s(batch) + (batch if steps is None else steps) / self._steps * self.prompt_s

    def capacity(self, round_trip_s: float) -> float:
        """Return the steps/s it passes if requests return after ``round_trip_s``."""
        return min(self.most_requests / round_trip_s, self.most_steps_per_s)

    def batch(self, steps_per_s: float) -> float:
        """Return the decode steps in a batch: what arrives while the one before is computed.

        The last one is kept, as it is asked for several times in a row.
        """
        if self._last_batch[0] != steps_per_s:
            self._last_batch = steps_per_s, self._batch(steps_per_s)
        return self._last_batch[1]

    def _batch(self, steps_per_s: float) -> float:
        low, high = 1.0, self.most_batch
        if steps_per_s * self.cycle_s(low) <= low or high <= low:
            return low
        for _ in range(_BATCH_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if steps_per_s * self.cycle_s(middle) > middle else (low, middle)
        return high

    def longest_chunk(self, budget: float, steps_per_s: float) -> float:
        """Return the most tokens of a prompt in a step beside its decodes, by the least token budget of its route."""
        if not self._chunks_prompts:
            return math.inf
        left = max(1.0, budget - self.batch(steps_per_s))
        return min(left, self._threshold) if self._threshold else left

    def visit_s(
        self, steps_per_s: float, caught: float, longest_chunk: float = math.inf, alone: float = 0.0
    ) -> tuple[float, float]:
        """Return the time a step spends here, and the probability that it leaves behind a prompt.

        ``caught`` is the probability that it came behind one. Of a prompt it waits for one chunk only, of at most
        ``longest_chunk`` tokens; the mean chunk that is met is that of a prompt of the length that is met. Where nodes
        form steps of their own (``loops_inside``), it also waits for the decode step that runs when it comes, and
        shares its own step with the prompts that come while that one runs: with these it goes on, not behind them.
        Requests that pass no other node, the share ``alone``, come when a step ends, and wait for none.
        """
        rate = steps_per_s / self._steps
        busy = min(1.0, rate * self.prompt_s)
        met_s = min(self._spread, longest_chunk / self._prompt_tokens) * self.prompt_s  # of prompts of mean length
        batch = self.batch(steps_per_s)
        step_s = self.step_s(batch)
        if self._waits_for_steps:
            running_s = min(1.0 - busy, steps_per_s / batch * step_s) * step_s / 2 + met_s * busy / 2
            beside_s = met_s * min(1.0, rate * self.cycle_s(batch))
            return step_s + (1 - alone) * running_s + beside_s, 0.0
        behind_s = met_s * (caught + (1 - caught) * busy / 2)  # half of it is done, on average
        return step_s + behind_s, caught + (1 - caught) * busy

    def chunk_s(self, longest_chunk: float = math.inf) -> float:
        """Return what a chunk of a mean prompt adds to a step, cut evenly into pieces of at most ``longest_chunk``."""
        return self.prompt_s / max(1.0, self._prompt_tokens / longest_chunk)


def capacities(placement: Placement, tokens_per_s: Mapping[str, float]) -> CapacityTable:
    """Return a table that knows each node with the layers it holds."""
    return CapacityTable(
        tables={
            node: (0.0,) * (held.layers - 1) + (tokens_per_s[node],) for node, held in placement.ranges.items()
        },
        kinds={},
    )  # fmt: skip
