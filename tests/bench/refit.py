"""Fit the constants of the laws anew, with what is judged left out: ``python -m tests.bench.refit [CSV ...]``.

The rows are layers of dense models in 16 bits: those of the operator tables (extra ``operators``), or of CSV files in
the form of ``profile roofline --measured``. For each GPU ten constants are fitted (least squares of logarithms, large
errors damped): shares of bandwidth and of the multiply rate, sharpness and constant of products; share of the multiply
rate, constant and padding of prompts' attention, share of bandwidth, constant and padding of decode steps'. All-reduces
are the GPU's own. Printed are |error| of a layer, median and 90th percentile, in decode steps and prompts: with the
constants that ship, with all rows fitted, with each model left out of the fit in turn, and with the means of the
constants of the other GPUs (geometric), which is what to expect of a card that was not measured.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from helixsim.domain.step_time import prefill_pairs
from helixsim.errors import DataError
from helixsim.hardware import catalog
from helixsim.hardware.kernel_rows import CACHE_BYTES_PER_S, KernelRow, fits_cache, read_rows
from helixsim.hardware.kernels import ALL_REDUCES_PER_LAYER, Node
from helixsim.hardware.operator_library import SYSTEMS, open_tables
from helixsim.hardware.operator_rows import operator_rows

Floats = NDArray[np.float64]

MODELS = ("llama-3.1-8b", "llama-3.1-70b", "qwen3-32b")
WIDTHS = (1, 2, 4, 8)

NAMES = (
    "bandwidth", "compute", "sharpness", "launch", "prompt compute", "prompt launch", "prompt padding",
    "KV bandwidth", "KV launch", "KV padding",
)  # fmt: skip
DAMPED = 0.1
"""Errors of logarithms from which rows weigh less."""


@dataclass(frozen=True)
class Rows:
    """Measured layers of one GPU as arrays: everything of the law but its constants [s, 1/s]."""

    model: NDArray[np.str_]
    is_prompt: NDArray[np.bool_]
    measured_s: Floats
    read_s: Floats  # of each matrix, at the whole bandwidth
    multiply_s: Floats  # at the whole multiply rate
    matrices: Floats
    pairs_s: Floats  # of prompts
    pad_s: Floats  # of one token of padding
    kv_s: Floats  # of decode steps
    kv_pad_s: Floats
    other_s: Floats  # all-reduces

    def seconds(self, logs: Floats) -> Floats:
        """Return the times of all rows by the law with constants given as logarithms."""
        e_b, e_c, p, launch, a_c, a_launch, padding, k_b, k_launch, k_padding = np.exp(logs)
        p = max(p, 1.0)
        read, multiply = self.read_s / e_b, self.multiply_s / e_c
        larger, smaller = np.maximum(read, multiply), np.minimum(read, multiply)
        ratio = np.divide(smaller, larger, out=np.zeros_like(larger), where=larger > 0)
        products = (larger * (1 + ratio**p) ** (1 / p)).sum(axis=1) + launch * self.matrices
        prompts = a_launch + (self.pairs_s + padding * self.pad_s) / a_c
        decodes = k_launch + (self.kv_s + k_padding * self.kv_pad_s) / k_b
        found: Floats = products + np.where(self.is_prompt, prompts, decodes) + self.other_s
        return found

    def errors(self, logs: Floats) -> Floats:
        """Return the logarithms of computed over measured times."""
        found: Floats = np.log(self.seconds(logs) / self.measured_s)
        return found


def shipped(gpu: str) -> Floats:
    """Return the logarithms of the constants of a profile."""
    kernels = catalog.load_gpu(gpu).kernels
    law, attention = kernels.fp16, kernels.attention
    values = (
        law.bandwidth_efficiency, law.compute_efficiency, law.sharpness, law.launch_s, attention.compute_efficiency,
        attention.launch_s, attention.padding_tokens, attention.kv_bandwidth_efficiency, attention.kv_launch_s,
        attention.kv_padding_tokens,
    )  # fmt: skip
    return np.log(np.maximum(values, 1e-9))


def arrays(measured: Sequence[KernelRow]) -> Rows:
    """Return rows of one GPU as arrays."""
    columns: list[list[float]] = [[] for _ in range(7)]
    read, multiply = [], []
    for row in measured:
        node, model = Node(catalog.load_gpu(row.gpu), row.gpus), catalog.load_model(row.model, row.precision)
        gpu, layer = node.gpu, model.layers[-1]
        attention, is_prompt = layer.attention, row.phase == "prefill"
        assert attention is not None
        tokens = row.batch * (row.prompt if is_prompt else 1)
        weights = [inputs * outputs for inputs, outputs in (matrix.shard(node.tensor) for matrix in layer.matrices)]
        read.append([2.0 * one / gpu.memory_bandwidth_bytes_per_s for one in weights])
        multiply.append([2.0 * one * tokens / gpu.fp16_flops for one in weights])
        pair_s = 2.0 * attention.num_heads / node.tensor * (attention.key_dim + attention.value_dim) / gpu.fp16_flops
        kv_s = attention.kv_numbers * 2.0 / min(node.tensor, attention.num_kv_heads) / gpu.memory_bandwidth_bytes_per_s
        reduce_s = ALL_REDUCES_PER_LAYER * node.all_reduce_s(model.hidden_size, tokens, is_captured=row.is_captured)
        context_s, cached_s = kv_s * tokens * row.context, 0.0
        context_bytes = context_s * gpu.memory_bandwidth_bytes_per_s
        if fits_cache(row.gpu, context_bytes):
            context_s, cached_s = 0.0, context_bytes / CACHE_BYTES_PER_S
        values = (
            row.measured_ms / 1e3, len(weights), pair_s * row.batch * prefill_pairs(row.prompt, 0), pair_s * tokens,
            context_s, kv_s * tokens, reduce_s + cached_s,
        )  # fmt: skip
        for column, value in zip(columns, values, strict=True):
            column.append(value)
    measured_s, matrices, pairs_s, pad_s, kv_s, kv_pad_s, other_s = map(np.array, columns)
    return Rows(
        np.array([row.model for row in measured]), np.array([row.phase == "prefill" for row in measured]), measured_s,
        np.array(read), np.array(multiply), matrices, pairs_s, pad_s, kv_s, kv_pad_s, other_s,
    )  # fmt: skip


def fit(rows: Rows, start: Floats, kept: NDArray[np.bool_]) -> Floats:
    """Return the constants, as logarithms, that meet the kept rows best (damped Gauss-Newton)."""
    logs, damping = start.copy(), 1e-2

    def cost(at: Floats) -> float:
        return float(np.sqrt(1 + (rows.errors(at)[kept] / DAMPED) ** 2).sum())

    best = cost(logs)
    for _ in range(60):
        errors = rows.errors(logs)[kept]
        weights = 1 / np.sqrt(1 + (errors / DAMPED) ** 2)
        slopes = np.stack([(rows.errors(logs + step)[kept] - errors) / 1e-4 for step in 1e-4 * np.eye(len(logs))], 1)
        square = slopes.T @ (weights[:, None] * slopes)
        step = np.linalg.solve(square + damping * np.diag(np.diag(square) + 1e-6), -slopes.T @ (weights * errors))
        step = np.clip(step, -0.5, 0.5)
        tried = cost(logs + step)
        if tried < best:
            logs, best, damping = logs + step, tried, damping / 3
            if np.abs(step).max() < 1e-4:
                break
        else:
            damping *= 5
            if damping > 1e8:
                break
    return logs


def stated(errors: Floats, rows: Rows) -> list[str]:
    """Return |error|, median and 90th percentile, of decode steps and of prompts."""
    texts = []
    for wanted in (~rows.is_prompt, rows.is_prompt):
        off = np.abs(np.expm1(errors[wanted]))
        texts.append(f"{100 * np.median(off):.1f} / {100 * np.quantile(off, 0.9):.0f} %")
    return texts


def left_out(of_gpu: dict[str, Rows]) -> dict[str, list[str]]:
    """Return for each GPU its errors: as shipped, all fitted, each model left out, this GPU left out."""
    every = {gpu: np.ones(len(rows.measured_s), bool) for gpu, rows in of_gpu.items()}
    whole = {gpu: fit(rows, shipped(gpu), every[gpu]) for gpu, rows in of_gpu.items()}
    found = {}
    for gpu, rows in of_gpu.items():
        without_model = np.empty(len(rows.measured_s))
        for model in np.unique(rows.model):
            chosen = rows.model == model
            without_model[chosen] = rows.errors(fit(rows, whole[gpu], ~chosen))[chosen]
        others = np.mean([logs for other, logs in whole.items() if other != gpu], axis=0)
        found[gpu] = [
            str(len(rows.measured_s)),
            *stated(rows.errors(shipped(gpu)), rows),
            *stated(rows.errors(whole[gpu]), rows),
            *stated(without_model, rows),
            *stated(rows.errors(others), rows),
        ]
    return found


def of_tables() -> list[KernelRow]:
    """Return the rows of the operator tables."""
    found: list[KernelRow] = []
    for gpu in SYSTEMS:
        tables = open_tables(gpu, "vllm")
        for name in MODELS:
            for gpus in WIDTHS:
                try:
                    found += operator_rows(catalog.load_model(name), gpu, gpus, tables)
                except DataError as error:
                    print(f"left out: {name} on {gpus} {gpu}: {error}", file=sys.stderr)
    return found


def main(paths: Sequence[str]) -> None:
    """Print the table."""
    measured = [row for path in paths for row in read_rows(Path(path))] if paths else of_tables()
    groups: dict[str, list[KernelRow]] = {}
    for row in measured:
        if row.phase in ("decode", "prefill") and row.precision in ("fp16", "bf16"):
            groups.setdefault(row.gpu, []).append(row)
    print("| GPU | rows | as shipped: decode | prefill | all fitted | | model left out | | GPU left out | |")
    print(f"|---|---:|{'---|' * 8}")
    for gpu, cells in left_out({gpu: arrays(rows) for gpu, rows in groups.items()}).items():
        print(f"| {gpu} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main(sys.argv[1:])
