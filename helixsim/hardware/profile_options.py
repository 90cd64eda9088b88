"""How node profiles are made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from helixsim.hardware.engine_defaults import AS_MEASURED, StepDefaults

WITHOUT_FILE = ("auto", "analytic", "operators")
"""Sources of timings that are not files."""


@dataclass(frozen=True, slots=True)
class ProfileOptions:
    """How node profiles are made.

    Parameters
    ----------
    memory_fraction
        Share of the usable GPU memory the engine takes, weights included (vLLM: ``gpu_memory_utilization``), 0..1.
    block_tokens
        Tokens of one KV block.
    max_weight_fraction
        Largest share of the usable memory a planner fills with weights, 0..1. None or 0.5: the published numbers of
        layers where there are any; None, and none published: what leaves KV memory for ``least_kv_tokens``.
    least_kv_tokens
        KV memory that a planner leaves: one context of so many tokens. None: the longest context of the model, or
        ``LEAST_KV_TOKENS`` if that is less.
    sequence_tokens
        Tokens of a usual sequence, which share out what windows and states of fixed size keep; None: as
        ``least_kv_tokens`` if that is None.
    max_prefill_tokens, max_prefill_requests, max_decode_seqs
        Batch limits with any number of layers; None: those of ``limits``, else of ``steps``, else as measured, else
        ``DEFAULT_LIMITS``.
    graph_sizes
        Sizes that steps are padded to; None: those of ``steps``.
    steps
        Limits of a step in the engine.
    timings
        CSV of per-layer timings (see ``measured``) or a YAML file written by ``profile fit``; or one of
        ``WITHOUT_FILE``: the laws of ``kernels``, tables of measured kernels, or ``auto``, the first that is there of
        ``profiles/compute``, the tables, timings of one GPU, and the laws.
    backend
        Engine in the operator tables; None: it has none there.
    kernels
        Engine whose kernels run, in the laws; None: that of ``backend``, without one those of vLLM, each timed alone.
    moe_backend
        What routed experts are computed with, by the name of the engine's option; None: what the engine takes.
    limits
        CSV of KV tokens and batch limits by number of layers (see ``measured``), taken exactly as tabulated.
    holds_ends
        Nodes with the first and the last layer keep embedding and output head, and memory to sample.
    has_mtp
        Nodes with the last layer keep a module like it, with keys and values of its own, that drafts tokens.
    data_parallel_size
        Attention ranks of a node (data-parallel attention); limits of a step are those of a rank.
    enable_expert_parallel
        Whole experts on each GPU instead of a slice of every one.
    """

    memory_fraction: float = 0.9
    block_tokens: int = 16
    max_weight_fraction: float | None = None
    least_kv_tokens: int | None = None
    sequence_tokens: float | None = None
    max_prefill_tokens: int | None = None
    max_prefill_requests: int | None = None
    max_decode_seqs: int | None = None
    graph_sizes: tuple[int, ...] | None = None
    steps: StepDefaults = AS_MEASURED
    timings: Path | str = "auto"
    backend: str | None = None
    kernels: str | None = None
    moe_backend: str | None = None
    limits: Path | None = None
    holds_ends: bool = False
    has_mtp: bool = False
    data_parallel_size: int = 1
    enable_expert_parallel: bool = False

    @property
    def is_spread(self) -> bool:
        """Whether a node computes otherwise than by tensor parallelism alone."""
        return self.data_parallel_size > 1 or self.enable_expert_parallel
