"""Public measurements of served models: means of TTFT and TPOT in a closed loop, one point each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

NVIDIA, INFERENCEX = "NVIDIA", "InferenceX"
"""Sources of the rows."""

AGGREGATED, DISAGGREGATED = "aggregated", "disaggregated"
"""Kinds of runs: prefill and decode on the same GPUs, or each on its own."""

SPREAD = 0.8
"""Lengths of InferenceX are uniform from this share of the stated length up to it (``random_range_ratio`` 0.8)."""


@dataclass(frozen=True, slots=True)
class MeasuredPoint:
    """One measured run: a closed loop of constant concurrency on one instance of an engine.

    Parameters
    ----------
    id, source, id_of_model
        As the file has them.
    gpu, tensor_parallel, data_parallel, expert_parallel
        GPU profile; ranks of the tensor parallelism of each attention replica, attention replicas, and ranks over which
        whole experts are spread (1: experts are split like other matrices).
    engine, engine_version
        Engine profile, and the version measured (empty: not stated).
    model, weights
        Model profile; format of the weights, None: that of the profile's checkpoint.
    prompt_tokens, output_tokens, spread
        Longest lengths; lengths are uniform from ``spread`` times them up.
    concurrency
        Requests in flight on the instance, or on all instances of a disaggregated run.
    ttft_ms, tpot_ms
        Measured means.
    rows
        Rows of the file that state this run.
    prefill_workers, prefill_tensor_parallel, prefill_data_parallel, prefill_expert_parallel
        Of a disaggregated run: instances that prefill, and their parallelism; 0 instances: prefill and decode are on
        the same GPUs.
    decode_workers, decode_seqs
        Instances that decode, and the most sequences of an attention rank there; 0: the engine's.
    drafts
        Draft tokens of a decode step and sequence, made by the model's own module (multi-token prediction).
    """

    id: str
    source: str
    gpu: str
    tensor_parallel: int
    data_parallel: int
    expert_parallel: int
    engine: str
    engine_version: str
    model: str
    weights: str | None
    prompt_tokens: int
    output_tokens: int
    spread: float
    concurrency: int
    ttft_ms: float
    tpot_ms: float
    id_of_model: str = ""
    rows: int = 1
    prefill_workers: int = 0
    prefill_tensor_parallel: int = 1
    prefill_data_parallel: int = 1
    prefill_expert_parallel: int = 1
    decode_workers: int = 1
    decode_seqs: int = 0
    drafts: int = 0

    @property
    def gpus(self) -> int:
        """GPUs of the instance, that decodes where prefill is elsewhere."""
        return self.tensor_parallel * self.data_parallel

    @property
    def prefill_gpus(self) -> int:
        """GPUs of an instance that prefills."""
        return self.prefill_tensor_parallel * self.prefill_data_parallel

    @property
    def kind(self) -> str:
        """``DISAGGREGATED`` where prefill and decode have GPUs of their own, else ``AGGREGATED``."""
        return DISAGGREGATED if self.prefill_workers else AGGREGATED

    @property
    def in_flight(self) -> float:
        """Requests in flight for each instance that decodes."""
        return self.concurrency / self.decode_workers

    @property
    def mean_output_tokens(self) -> float:
        """Mean number of output tokens."""
        return self.output_tokens * (1 + self.spread) / 2

    @property
    def mean_context_tokens(self) -> float:
        """Mean context of a decode step: the prompt and half of the output."""
        return (self.prompt_tokens + self.output_tokens / 2) * (1 + self.spread) / 2

    @property
    def output_tokens_per_s(self) -> float:
        """Output tokens/s that the measured means give by Little's law (``throughput``)."""
        return throughput(self, self.ttft_ms, self.tpot_ms)


@dataclass(frozen=True, slots=True)
class Inexpressible:
    """A measured run that helixsim cannot express, and why; ``kind`` as that of ``MeasuredPoint``."""

    id: str
    reason: str
    kind: str = AGGREGATED


def throughput(point: MeasuredPoint, ttft_ms: float, tpot_ms: float) -> float:
    """Return the output tokens/s of a closed loop by Little's law: concurrency x tokens / (TTFT + steps x TPOT)."""
    tokens = point.mean_output_tokens
    return point.concurrency * tokens / (ttft_ms + (tokens - 1) * tpot_ms) * 1e3


def chosen(points: list[MeasuredPoint], count: int) -> list[MeasuredPoint]:
    """Return about ``count`` points, the same share of each stratum and at least one of each.

    Strata have one kind, GPU, engine, model and format. Within a stratum points are spread evenly over concurrency and
    lengths.
    """
    strata: dict[tuple[str, str, str, str, str | None], list[MeasuredPoint]] = {}
    for point in points:
        strata.setdefault((point.kind, point.gpu, point.engine, point.model, point.weights), []).append(point)
    share = min(1.0, count / max(1, len(points)))
    kept: list[MeasuredPoint] = []
    for _, members in sorted(strata.items(), key=lambda item: tuple(map(str, item[0]))):
        ordered = sorted(
            members, key=lambda one: (one.gpus, one.prompt_tokens, one.output_tokens, one.concurrency, one.id)
        )
        number = max(1, round(share * len(ordered)))
        kept += [ordered[(2 * i + 1) * len(ordered) // (2 * number)] for i in range(number)]
    return kept


def where(points: Iterable[MeasuredPoint], conditions: Mapping[str, str]) -> list[MeasuredPoint]:
    """Return the points whose fields have the given values, as text."""
    return [one for one in points if all(str(getattr(one, key)) == value for key, value in conditions.items())]
