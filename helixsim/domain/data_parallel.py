"""Time of the steps of a node whose GPUs are several attention ranks, each with sequences of its own.

Data-parallel attention, as vLLM (``data_parallel_size``), SGLang (``--enable-dp-attention``) and TensorRT-LLM
(``enable_attention_dp``) run mixtures of experts: every rank holds the attention of all its layers and the keys and
values of its own sequences, while the routed experts are spread over all GPUs and serve the tokens of all ranks. The
ranks meet in every layer, so that a step takes as long as that of the rank with the most work.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from helixsim.domain.curves import Curve
from helixsim.domain.engine import EngineSpec
from helixsim.domain.hardware import ComputeProfile
from helixsim.domain.placement import LayerRange
from helixsim.domain.step_time import BatchShape, StepTime


def step_time(
    compute: ComputeProfile,
    engine: EngineSpec,
    held: LayerRange,
    num_layers: int,
    graph_sizes: Sequence[int] = (),
) -> StepTime:
    """Return the time of the steps of a node, of however many attention ranks (see ``StepTime``)."""
    kind = StepTime if compute.ranks == 1 else RankedStepTime
    return kind(compute, engine, held, num_layers, graph_sizes)


class RankedStepTime(StepTime):
    """``StepTime`` of a node of several attention ranks; shapes are those of all ranks together.

    Sequences are spread evenly, as the engines' balancers do: of ``n`` sequences, the fullest rank has ``ceil(n /
    ranks)`` with that share of their tokens. Prompts are spread likewise, each on one rank.
    """

    __slots__ = ("_experts", "_experts_from", "_first", "_known_experts_ns", "_ranks", "_tokens_each")

    def __init__(
        self,
        compute: ComputeProfile,
        engine: EngineSpec,
        held: LayerRange,
        num_layers: int,
        graph_sizes: Sequence[int] = (),
    ) -> None:
        super().__init__(compute, engine, held, num_layers, graph_sizes)
        self._ranks = compute.ranks
        self._first = held.start
        self._experts: tuple[Curve | None, ...] = compute.experts[held.start : held.end]
        self._experts_from: dict[tuple[int, int | None], list[tuple[int, Curve]]] = {}
        self._known_experts_ns: dict[tuple[float, int, int | None], float] = {}
        self._tokens_each = 1 + engine.drafts

    def ns(self, shape: BatchShape, start: int | None = None) -> float:
        """See ``StepTime.ns``."""
        tokens = shape.prefill_tokens + shape.decode_seqs * self._tokens_each
        drafting_ns = self._drafting_ns(shape.decode_seqs, shape.decode_context)
        return self._step_ns(self._fullest(shape), start, self._experts_ns(tokens, start) + drafting_ns)

    def decode_ns(self, seqs: float, context: float, start: int | None = None) -> float:
        """See ``StepTime.decode_ns``."""
        most = math.ceil(seqs / self._ranks)
        others_ns = self._experts_ns(seqs * self._tokens_each, start)
        if self._drafters:
            others_ns += self._drafting_ns(seqs, context)
        return self._decode_step_ns(most, context * (most / seqs) if seqs else 0.0, start, others_ns)

    def ns_of_entries(self, entries: Sequence[tuple[int, BatchShape]]) -> float:
        """See ``StepTime.ns_of_entries``; each entry is spread over the ranks by itself."""
        tokens = 0.0
        others_ns = self._entries_drafting_ns(entries)
        ends: list[int | None] = [*(entry for entry, _ in entries[1:]), None]
        for (entry, shape), end in zip(entries, ends, strict=True):
            tokens += shape.prefill_tokens + shape.decode_seqs * self._tokens_each
            others_ns += self._experts_ns(tokens, entry, end)
        return self._step_of_entries_ns([(entry, self._fullest(shape)) for entry, shape in entries], others_ns)

    def decode_ns_series(self, seqs: int, context: int, steps: int) -> NDArray[np.float64]:
        """See ``StepTime.decode_ns_series``."""
        most = math.ceil(seqs / self._ranks)
        contexts = np.arange(context, context + seqs * steps, seqs, dtype=np.float64) * (most / seqs)
        drafting_ns = self._drafting_series(seqs, context, steps)
        return self._decode_series(most, contexts, self._experts_ns(seqs * self._tokens_each, None) + drafting_ns)

    def _fullest(self, shape: BatchShape) -> BatchShape:
        """Return the part of a shape that the fullest rank computes."""
        prompts, decoding = math.ceil(shape.prefill_seqs / self._ranks), math.ceil(shape.decode_seqs / self._ranks)
        of_prompts = prompts / shape.prefill_seqs if shape.prefill_seqs else 1.0
        of_decoding = decoding / shape.decode_seqs if shape.decode_seqs else 1.0
        return BatchShape(
            shape.prefill_tokens * of_prompts,
            shape.prefill_pairs * of_prompts,
            prompts,
            decoding,
            shape.decode_context * of_decoding,
            math.ceil(shape.sampled / self._ranks),
        )

    def _experts_ns(self, tokens: float, start: int | None, end: int | None = None) -> float:
        """Return the time of the routed experts of the layers from ``start`` on for the tokens of all ranks [ns]."""
        if not tokens:
            return 0.0
        first = self._first if start is None else start
        key = (tokens, first, end)
        known = self._known_experts_ns.get(key)
        if known is None:
            known = self._known_experts_ns[key] = sum(
                count * curve(tokens) for count, curve in self._experts_of(first, end)
            )
        return known

    def _experts_of(self, start: int, end: int | None) -> list[tuple[int, Curve]]:
        known = self._experts_from.get((start, end))
        if known is None:
            curves = self._experts[start - self._first : None if end is None else end - self._first]
            kinds = {id(curve): curve for curve in curves if curve is not None}
            counts = {key: sum(1 for curve in curves if id(curve) == key) for key in kinds}
            known = self._experts_from[start, end] = [(counts[key], curve) for key, curve in kinds.items()]
        return known
