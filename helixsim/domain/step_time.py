"""One law for the time of a step: what a batch takes on a node with some layers of the model.

``BatchShape`` holds all that the time depends on, ``StepTime`` turns it into nanoseconds. The simulation, the operating
point and the bounds of fleet searches share it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from helixsim.domain.curves import Curve, values
from helixsim.domain.engine import EngineSpec
from helixsim.domain.hardware import ComputeProfile, LayerTimes
from helixsim.domain.placement import LayerRange

_MOST_KNOWN = 2**15
"""Most batches whose time a kind of layer remembers."""


class BatchShape(NamedTuple):
    """What one step computes.

    The planner's means may be fractions, so all fields are ``float`` to the type checker; the simulation gives integers
    (``prefill_pairs``: multiples of one half).

    Parameters
    ----------
    prefill_tokens
        Prompt tokens, over all chunks of the step.
    prefill_pairs
        Pairs of a prompt token and a token it attends to; see ``prefill_pairs``.
    prefill_seqs
        Prompts that they belong to.
    decode_seqs
        Sequences that decode one token each.
    decode_context
        Tokens whose keys and values these read, over all of them.
    sampled
        Sequences that get a token from the output head: decoding ones, and prompts whose last chunk this is.
    """

    prefill_tokens: float = 0
    prefill_pairs: float = 0
    prefill_seqs: float = 0
    decode_seqs: float = 0
    decode_context: float = 0
    sampled: float = 0

    def joined(self, other: BatchShape) -> BatchShape:
        """Return the shape of both in one step."""
        return BatchShape(
            self.prefill_tokens + other.prefill_tokens,
            self.prefill_pairs + other.prefill_pairs,
            self.prefill_seqs + other.prefill_seqs,
            self.decode_seqs + other.decode_seqs,
            self.decode_context + other.decode_context,
            self.sampled + other.sampled,
        )


def prefill_pairs(tokens: float, past: float = 0) -> float:
    """Return the pairs of a chunk of ``tokens`` prompt tokens behind ``past`` tokens of context.

    Each token attends to all before it and to half of its chunk; a whole prompt of ``n`` tokens has ``n^2 / 2`` pairs,
    in however many chunks it is computed.
    """
    return tokens * (past + tokens / 2)


class StepTime:
    """Time of the steps of one placed node.

    A step takes, for each layer, the products of all tokens and the attention of its prompts and decode steps; on the
    node with the last layer, output head and sampler for the sequences that get a token; at least what the host does
    meanwhile; and the engine's own time.
    With speculative decoding, the products and the head of the draft tokens as well, and the time to make them.

    Parameters
    ----------
    compute
        What the node's GPUs need for a layer.
    engine
        Which of the terms the engine has, and its overheads.
    held
        Layers of the node.
    num_layers
        Layers of the model.
    graph_sizes
        Numbers of tokens that CUDA graphs exist for, in order (``BatchLimits.graph_sizes``): the products of a step are
        padded to the next one, and need no launches. Attention, output head and the host's time are those of the step
        itself.
    """

    __slots__ = (
        "_all",
        "_batch_ns",
        "_copy_ns",
        "_drafters",
        "_drafts",
        "_has_host",
        "_head",
        "_held",
        "_host_ns",
        "_kinds",
        "_known_head_ns",
        "_known_layers",
        "_sequence_host_ns",
        "_sequence_ns",
    )

    def __init__(
        self,
        compute: ComputeProfile,
        engine: EngineSpec,
        held: LayerRange,
        num_layers: int,
        graph_sizes: Sequence[int] = (),
    ) -> None:
        self._held = held
        times = compute.layer_times(held)
        terms = {key: _LayerTerms(one, engine, graph_sizes) for key, one in {id(one): one for one in times}.items()}
        self._kinds = [terms[id(one)] for one in times]
        self._known_layers: dict[tuple[int, int | None], list[tuple[int, _LayerTerms]]] = {}
        self._all = self._layers(held.start)
        self._head = compute.head if engine.has_output_head and held.end == num_layers else None
        self._known_head_ns: dict[float, float] = {}
        self._copy_ns = compute.activation_copy_ns_per_token if engine.copies_activations else 0.0
        self._batch_ns = engine.batch_overhead_ns
        self._sequence_ns = engine.sequence_overhead_ns
        self._host_ns = engine.host_ns
        self._sequence_host_ns = engine.sequence_host_ns
        self._has_host = bool(engine.host_ns or engine.sequence_host_ns)
        self._drafts = engine.drafts
        self._drafters = [
            (share, type(self)(compute, own, part, num_layers, graph_sizes))
            for share, own, part in engine.drafters(held, num_layers)
        ]

    def ns(self, shape: BatchShape, start: int | None = None) -> float:
        """Return the time of a step [ns], whose requests enter at layer ``start`` (None: the first one held)."""
        return self._step_ns(shape, start, self._drafting_ns(shape.decode_seqs, shape.decode_context))

    def decode_ns(self, seqs: float, context: float, start: int | None = None) -> float:
        """Return the time of a step of decode steps alone [ns], as ``ns`` does: most steps are such."""
        return self._decode_step_ns(seqs, context, start, self._drafting_ns(seqs, context) if self._drafters else 0.0)

    def _drafting_ns(self, seqs: float, context: float) -> float:
        """Return the time to make the draft tokens of a step [ns]."""
        return sum([share * drafter.decode_ns(seqs, context) for share, drafter in self._drafters if seqs])

    def _drafting_series(self, seqs: int, context: int, steps: int) -> NDArray[np.float64] | float:
        """Return what ``_drafting_ns`` does for each of ``steps`` steps [ns]."""
        series = [share * drafter.decode_ns_series(seqs, context, steps) for share, drafter in self._drafters]
        return np.sum(series, axis=0) if series else 0.0

    def _step_ns(self, shape: BatchShape, start: int | None, others_ns: float) -> float:
        """Return the time of a step with ``others_ns`` of draft tokens and of experts for other ranks, too [ns]."""
        layers_ns = pairs_ns = 0.0
        for count, terms in self._all if start is None else self._layers(start):
            layers_ns += count * terms.layer_ns(shape.prefill_tokens, shape.decode_seqs, shape.decode_context)
            if terms.has_pairs and shape.prefill_tokens:
                pairs_ns += terms.pairs_ns(shape, count)
        return self._whole_ns(layers_ns + pairs_ns + others_ns, shape)

    def _decode_step_ns(self, seqs: float, context: float, start: int | None, others_ns: float) -> float:
        layers_ns = 0.0
        for count, terms in self._all if start is None else self._layers(start):
            layers_ns += count * terms.layer_ns(0, seqs, context)
        if self._head is not None:
            layers_ns += self._head_ns(seqs + self._drafts * seqs)
        layers_ns += self._copy_ns * seqs
        layers_ns += others_ns
        if self._has_host:
            layers_ns = max(layers_ns, self._host_ns + self._sequence_host_ns * seqs)
        return layers_ns + (self._batch_ns + self._sequence_ns * seqs)

    def ns_of_entries(self, entries: Sequence[tuple[int, BatchShape]]) -> float:
        """Return the time of a step whose requests enter at different layers [ns]: later layers have more work.

        ``entries`` are layers of entry in ascending order, each once, with the shape of what enters there.
        """
        return self._step_of_entries_ns(entries, self._entries_drafting_ns(entries))

    def _entries_drafting_ns(self, entries: Sequence[tuple[int, BatchShape]]) -> float:
        seqs = sum(shape.decode_seqs for _, shape in entries)
        return self._drafting_ns(seqs, sum(shape.decode_context for _, shape in entries))

    def _step_of_entries_ns(self, entries: Sequence[tuple[int, BatchShape]], others_ns: float) -> float:
        active = BatchShape()
        layers_ns = pairs_ns = 0.0
        ends = [*(entry for entry, _ in entries[1:]), self._held.end]
        for (entry, shape), end in zip(entries, ends, strict=True):
            active = active.joined(shape)
            for count, terms in self._layers(entry, end):
                layers_ns += count * terms.layer_ns(active.prefill_tokens, active.decode_seqs, active.decode_context)
                if terms.has_pairs and active.prefill_tokens:
                    pairs_ns += terms.pairs_ns(active, count)
        return self._whole_ns(layers_ns + pairs_ns + others_ns, active)

    def decode_ns_series(self, seqs: int, context: int, steps: int) -> NDArray[np.float64]:
        """Return the times of ``steps`` steps of the same sequences [ns], whose context grows by a token each.

        Each equals ``decode_ns`` of its step to the last bit.
        """
        contexts = np.arange(context, context + seqs * steps, seqs, dtype=np.float64)
        return self._decode_series(seqs, contexts, self._drafting_series(seqs, context, steps))

    def _decode_series(
        self, seqs: int, contexts: NDArray[np.float64], others_ns: NDArray[np.float64] | float
    ) -> NDArray[np.float64]:
        """Return the times of steps of the same sequences with each of these contexts [ns]."""
        kinds = self._all
        count, terms = kinds[0]
        total = terms.decode_ns_series(seqs, contexts)
        total *= count
        for count, terms in kinds[1:]:
            total += count * terms.decode_ns_series(seqs, contexts)
        if self._head is not None:
            total += self._head_ns(seqs + self._drafts * seqs)
        if self._copy_ns:
            total += self._copy_ns * seqs
        if self._drafters or others_ns:  # without drafts a number
            total += others_ns
        if self._has_host:
            np.maximum(total, self._host_ns + self._sequence_host_ns * seqs, out=total)
        total += self._own_ns(seqs)
        return total

    def _whole_ns(self, layers_ns: float, shape: BatchShape) -> float:
        if self._head is not None and shape.sampled:
            layers_ns += self._head_ns(shape.sampled + self._drafts * shape.decode_seqs)
        tokens, seqs = shape.prefill_tokens + shape.decode_seqs, shape.prefill_seqs + shape.decode_seqs
        layers_ns += self._copy_ns * tokens
        if self._has_host:
            layers_ns = max(layers_ns, self._host_ns + self._sequence_host_ns * seqs)
        return layers_ns + self._own_ns(seqs)

    def _head_ns(self, seqs: float) -> float:
        known = self._known_head_ns.get(seqs)
        if known is None:
            assert self._head is not None, "asked of nodes with a head alone"
            known = self._head(seqs)
            if len(self._known_head_ns) < _MOST_KNOWN:
                self._known_head_ns[seqs] = known
        return known

    def _own_ns(self, seqs: float) -> float:
        return self._batch_ns + self._sequence_ns * seqs

    def _layers(self, start: int, end: int | None = None) -> list[tuple[int, _LayerTerms]]:
        """Return the kinds of the layers from ``start`` to ``end`` (None: the last one held) with their numbers."""
        known = self._known_layers.get((start, end))
        if known is None:
            first = self._held.start
            kinds = self._kinds[start - first : None if end is None else end - first]
            known = self._known_layers[start, end] = [(count, terms) for terms, count in Counter(kinds).items()]
        return known


class _LayerTerms:
    """Time of one layer under an engine, with what was computed before."""

    __slots__ = (
        "_attention",
        "_context_ns",
        "_curves",
        "_drafts",
        "_engine",
        "_floor_ns",
        "_index_ns",
        "_known_ns",
        "_launch_ns",
        "_reads_context",
        "_reference",
        "_sizes",
        "_times",
        "_wide_seqs",
        "_window",
        "has_pairs",
    )

    def __init__(self, times: LayerTimes, engine: EngineSpec, graph_sizes: Sequence[int]) -> None:
        self._times = times
        self._sizes = graph_sizes
        self._engine = engine
        self._launch_ns = engine.layer_launch_ns * times.launches
        self._drafts = engine.drafts
        verified = (1 + self._drafts) * times.context_multiply_ns_per_token
        self._context_ns = max(times.decode_context_ns_per_token, verified)
        self._wide_seqs = times.wide_seqs
        self._reference = times.reference_context_tokens
        self._window = times.window_tokens
        self._index_ns = times.index_ns_per_token
        self._attention = times.attention
        self._reads_context = bool(self._context_ns or self._index_ns or self._attention)
        self._curves: dict[float, Curve] = {}
        self.has_pairs = bool(times.prefill_ns_per_pair or times.index_ns_per_pair or times.attention)
        self._known_ns: dict[tuple[float, float], float] = {}
        self._floor_ns = min(times.decode(1), self._work_ns(0, 1))

    def layer_ns(self, prompt: float, seqs: float, context: float) -> float:
        """Return the time of the layer without the pairs of prompts [ns]."""
        known = self._known_ns.get((prompt, seqs))  # most steps are known, and a call costs as much as the rest
        if known is None:
            known = self._known_work_ns(prompt, seqs)
        if not seqs or not self._reads_context:
            return known
        if self._attention is not None:
            return known + self._context_curve(seqs)(context / seqs)
        read = context if self._window is None else min(context, self._window * seqs)
        found = known + self._each_ns(seqs) * (read - self._reference * seqs)
        if self._index_ns:
            found += self._index_ns * context
        return found if found > self._floor_ns else self._floor_ns

    def _each_ns(self, seqs: float) -> float:
        """Return the time for each token of the context of so many sequences [ns]."""
        wide = self._wide_seqs
        return self._context_ns if seqs >= wide else self._context_ns * (wide / seqs)

    def decode_ns_series(self, seqs: int, contexts: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the time of the layer for the same sequences with each of these contexts, which grow [ns]."""
        known = self._known_work_ns(0, seqs)
        if self._attention is not None:
            return known + values(self._context_curve(seqs), contexts / seqs)
        if not (self._context_ns or self._index_ns):
            return np.full(len(contexts), known, dtype=np.float64)  # a launch time is an integer
        read = contexts if self._window is None else np.minimum(contexts, self._window * seqs)
        if self._reference:
            read = read - self._reference * seqs
        found = read * self._each_ns(seqs)
        found += known
        if self._index_ns:
            found += self._index_ns * contexts
        return found if not len(found) or found[0] >= self._floor_ns else np.maximum(found, self._floor_ns)

    def pairs_ns(self, shape: BatchShape, layers: int) -> float:
        """Return what the pairs of prompts add in so many layers [ns], by a table all of the prompts' attention.

        A chunk behind a long context takes at least as long as reading the keys and values of that. Within a window, by
        a table and for what chunks read, all prompts are taken to be of the mean length and the mean past.
        """
        times, pairs = self._times, shape.prefill_pairs
        seqs = shape.prefill_seqs or 1
        tokens = shape.prefill_tokens / seqs
        past = max(pairs / shape.prefill_tokens - tokens / 2, 0.0)
        if self._attention is not None:
            return layers * self._attention.prompts_ns(tokens, past, seqs)
        if self._window is not None:
            growing = min(max(self._window - past, 0.0), tokens)
            pairs = (prefill_pairs(growing, past) + (tokens - growing) * self._window) * seqs
            past = min(past, self._window)
        found = max(times.prefill_ns_per_pair * (layers * pairs), self._context_ns * (layers * seqs * past))
        if times.index_ns_per_pair:
            found += times.index_ns_per_pair * (layers * shape.prefill_pairs)
        return found

    def _context_curve(self, seqs: float) -> Curve:
        assert self._attention is not None, "only layers with a table have curves"
        known = self._curves.get(seqs)
        if known is None:
            known = self._attention.decode_curve(seqs)
            if len(self._curves) < _MOST_KNOWN:
                self._curves[seqs] = known
        return known

    def _known_work_ns(self, prompt: float, seqs: float) -> float:
        known = self._known_ns.get((prompt, seqs))
        if known is None:
            known = self._padded_work_ns(prompt, seqs)
            if len(self._known_ns) < _MOST_KNOWN:
                self._known_ns[prompt, seqs] = known
        return known

    def _padded_work_ns(self, prompt: float, seqs: float) -> float:
        """Return the time of the products of a step that is padded to the size of a CUDA graph [ns]."""
        sizes, tokens = self._sizes, prompt + seqs
        if not sizes or tokens > sizes[-1] or (prompt and not self._engine.pads_prompts):
            return self._work_ns(prompt, seqs, self._launch_ns)
        padding = sizes[bisect_left(sizes, tokens)] - tokens
        if not seqs:
            return self._work_ns(prompt + padding, 0)
        # What is padded has no context, of which the time of a sequence has some where it was measured with it.
        return self._work_ns(prompt, seqs + padding) - self._context_ns * (self._reference * padding)

    def _work_ns(self, prompt: float, seqs: float, launch: float = 0.0) -> float:
        """Return the time of a layer whose kernels the host launches in ``launch``, or in a CUDA graph [ns]."""
        times = self._times
        if self._engine.shares_weight_reads:
            return max(times.mixed_ns(prompt, seqs, self._drafts * seqs), launch)
        prefill, decode = times.prefill(prompt), times.mixed_ns(0, seqs, self._drafts * seqs)
        return (max(prefill, launch) if prompt else 0.0) + (max(decode, launch) if seqs else 0.0)
