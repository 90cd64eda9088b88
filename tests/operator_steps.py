"""Steps of whole models against ``aiconfigurator-core``: ``python -m tests.operator_steps`` prints a table of errors.

The library evaluates a model of its own, made from its copy of the checkpoint's ``config.json``; helixsim's layers, by
the laws of kernels and by the same tables, have to come to the same time. Neither side counts sampling or the host, and
norms of heads, which were not measured, take what the library assumes on both.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from helixsim.domain.engine import EngineSpec
from helixsim.domain.hardware import ComputeProfile, GpuSpec
from helixsim.domain.model import ModelSpec
from helixsim.domain.placement import LayerRange
from helixsim.domain.step_time import BatchShape, StepTime, prefill_pairs
from helixsim.hardware import catalog
from helixsim.hardware.kernels import Node
from helixsim.hardware.operator_layers import attention_operators
from helixsim.hardware.operator_library import SYSTEMS, Tables, open_tables
from helixsim.hardware.operator_tables import operator_times
from helixsim.hardware.roofline import roofline

KERNELS_ALONE = EngineSpec("kernels", copies_activations=False, has_output_head=True, shares_weight_reads=True)
"""An engine without time of its own."""


@dataclass(frozen=True)
class Case:
    """A model on some GPUs; ``checkpoint`` and ``options`` are the library's words for it."""

    model: str
    gpu: str
    gpus: int
    checkpoint: str
    precision: str | None = None
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """Return model, format and GPUs in words."""
        return f"{self.model}{f' {self.precision}' if self.precision else ''}, {self.gpus} x {self.gpu}"


_8B, _70B, _FP8 = "meta-llama/Meta-Llama-3.1-8B", "meta-llama/Meta-Llama-3.1-70B", (("gemm_quant_mode", "fp8"),)
CASES = (
    Case("llama-3.1-8b", "h100", 1, _8B),
    Case("llama-3.1-8b", "a100-80g", 1, _8B),
    Case("llama-3.1-8b", "l40s", 1, _8B),
    Case("llama-3.1-8b", "rtx-pro-6000", 1, _8B),
    Case("llama-3.1-70b", "h100", 4, _70B),
    Case("llama-3.1-70b", "a100-80g", 8, _70B),
    Case("llama-3.1-70b", "b200", 2, _70B),
    Case("llama-3.1-70b", "h100", 2, _70B, "fp8", _FP8),
    Case("llama-3.1-70b", "l40s", 4, _70B),
    Case("qwen3-32b", "h200", 2, "Qwen/Qwen3-32B"),
    Case("qwen3-30b-a3b", "h100", 1, "Qwen/Qwen3-30B-A3B"),
    Case("qwen3-235b-a22b", "h200", 8, "Qwen/Qwen3-235B-A22B", options=(("moe_tp_size", 8),)),
    Case("gpt-oss-120b", "b200", 1, "openai/gpt-oss-120b"),
)

DECODES = (*((seqs, context) for seqs in (1, 8, 32, 128) for context in (500, 2000, 8000)), (3, 777), (100, 3333))
PROMPTS = (512, 1000, 2048, 3333, 8192)
MIXED = ((512, 32, 2000), (1500, 45, 2345), (2048, 128, 2200))
"""Prompt tokens, sequences that decode beside them, and the context of each."""


@dataclass(frozen=True)
class Step:
    """One step: its kind, in words, and its time in ms by the library, by laws and by tables."""

    kind: str
    shape: str
    library_ms: float
    analytic_ms: float
    tables_ms: float


def steps(case: Case) -> Iterator[Step]:
    """Yield the steps of a case."""
    from aiconfigurator_core.sdk import EngineHandle

    handle = EngineHandle.compile(case.checkpoint, SYSTEMS[case.gpu], "vllm", tp_size=case.gpus, **dict(case.options))
    model, gpu = catalog.load_model(case.model, case.precision), _kernels_alone(catalog.load_gpu(case.gpu))
    tables = open_tables(case.gpu, "vllm")
    analytic = _step_time(model, roofline(model, gpu, case.gpus))
    tabled = _step_time(model, operator_times(Node(gpu, case.gpus), model, tables, in_service=False))
    norms_ms = _head_norms_ms(model, case.gpus, tables)

    def step(kind: str, text: str, ms: float, shape: BatchShape) -> Step:
        norms = norms_ms if shape.prefill_tokens else 0.0
        return Step(kind, text, ms, analytic.ns(shape) / 1e6 + norms, tabled.ns(shape) / 1e6)

    for seqs, context in DECODES:
        shape = BatchShape(decode_seqs=seqs, decode_context=seqs * context, sampled=seqs)
        yield step("decode", f"{seqs} x {context}", handle.decode_step_latency(seqs, context - 2, 2), shape)
    for tokens in PROMPTS:
        shape = BatchShape(tokens, prefill_pairs(tokens), 1, sampled=1)
        yield step("prefill", f"{tokens}", handle.mixed_step_latency(tokens, 0, tokens, 2), shape)
    for tokens, seqs, context in MIXED:  # the library decodes at the prompt's length and half of the output's
        shape = BatchShape(tokens, prefill_pairs(tokens), 1, seqs, seqs * (context + 1), seqs + 1)
        ms = handle.mixed_step_latency(tokens, seqs, tokens, 2 * (context - tokens))
        yield step("mixed", f"{tokens} + {seqs} x {context}", ms, shape)


def _step_time(model: ModelSpec, compute: ComputeProfile) -> StepTime:
    return StepTime(compute, KERNELS_ALONE, LayerRange(0, model.num_layers), model.num_layers)


def _kernels_alone(gpu: GpuSpec) -> GpuSpec:
    alone = replace(gpu.kernels, sampler_s=0.0, sampler_s_per_sequence=0.0, head_norms_s=0.0)
    return replace(gpu, kernels=alone)


def _head_norms_ms(model: ModelSpec, gpus: int, tables: Tables) -> float:
    """Return what the library adds to all layers of a step with prompts for norms of heads; decode steps have none."""
    total_ns = 0.0
    for layer in model.layers:
        attention = layer.attention
        if attention is not None and attention.head_norms:
            plain = replace(layer, attention=replace(attention, head_norms=False))
            for one, sign in ((layer, 1), (plain, -1)):
                operators = attention_operators(one, model, gpus, tables)
                assert operators is not None, "attention has operators"
                total_ns += sign * tables.ns(tables.build.text(operators[0]), 1, 512, is_prompt=True)
    return total_ns / 1e6


KINDS = ("decode", "prefill", "mixed")


def errors(found: Sequence[Step], kind: str, source: str) -> list[float]:
    """Return the relative errors of the steps of a kind, by ``analytic`` or ``tables``."""
    return [getattr(one, f"{source}_ms") / one.library_ms - 1.0 for one in found if one.kind == kind]


def main() -> None:
    """Print a row for each case: median and largest error of each kind of step, by laws and by tables; -v: steps."""
    print(f"| model, GPUs | {' | '.join(f'{kind}, {how}' for how in ('laws', 'tables') for kind in KINDS)} |")
    for case in CASES:
        found = list(steps(case))
        cells = []
        for source in ("analytic", "tables"):
            for kind in KINDS:
                known = errors(found, kind, source)
                cells.append(f"{median(known):+.1%} / {max(known, key=abs):+.1%}")
        print(f"| {case.name} | {' | '.join(cells)} |")
        for one in found if "-v" in sys.argv else ():
            text = ", ".join(
                f"{getattr(one, source) / one.library_ms - 1:+.1%}" for source in ("analytic_ms", "tables_ms")
            )
            print(f"    {one.kind} {one.shape}: {one.library_ms:.2f} ms, {text}")


if __name__ == "__main__":
    main()
