"""Rows of measured kernels out of operator tables, in the form of ``kernel_rows``."""

from __future__ import annotations

from collections.abc import Iterator

from helixsim.domain.model import ModelSpec
from helixsim.hardware.catalog import load_gpu
from helixsim.hardware.kernel_rows import KernelRow
from helixsim.hardware.kernels import ALL_REDUCES_PER_LAYER
from helixsim.hardware.operator_layers import attention_kernels, expert_operator, product_operators
from helixsim.hardware.operator_library import Tables

DECODES = tuple((seqs, context) for seqs in (1, 4, 16, 64, 256) for context in (512, 2048, 8192))
"""Sequences and the context of each."""

PROMPTS = tuple((prompts, tokens) for prompts in (1, 4) for tokens in (128, 512, 2048, 8192))
"""Prompts and the tokens of each."""


def operator_rows(model: ModelSpec, gpu: str, gpus: int, tables: Tables) -> Iterator[KernelRow]:
    """Yield the times of the last layer of a model, for decode steps and prompts of many sizes.

    Raises
    ------
    DataError
        If the tables do not have one of its operators.
    """
    layer, build = model.layers[-1], tables.build
    products = build.text(product_operators(layer, gpus, tables))
    prompt, decode = attention_kernels(layer, model, gpus, tables)
    reduces = build.text([build.all_reduce(model.hidden_size, gpus)] * ALL_REDUCES_PER_LAYER if gpus > 1 else [])
    experts = build.text([expert_operator(layer, gpus, tables, load_gpu(gpu).kernels)] if layer.experts else [])

    def row(phase: str, batch: int, each: int, context: int, attention_ns: float) -> KernelRow:
        tokens = batch * max(each, 1)
        parts = {
            "products": tables.ns(products, tokens),
            "attention": attention_ns,
            "all-reduces": tables.ns(reduces, tokens),
            "experts": tables.ns(experts, tokens),
        }
        known = tuple((name, ns / 1e6) for name, ns in parts.items())
        total_ms = sum(ms for _, ms in known)
        return KernelRow(gpu, model.name, gpus, model.precision, phase, batch, each, context, total_ms, known)

    for seqs, context in DECODES:
        yield row("decode", seqs, 0, context, sum(one.ns(seqs, context) for one in decode))
    for prompts, tokens in PROMPTS:
        yield row("prefill", prompts, tokens, 0, sum(one.ns(prompts, tokens, is_prompt=True) for one in prompt))
