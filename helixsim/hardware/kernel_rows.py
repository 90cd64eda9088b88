"""Measured times of kernels and layers, row by row, beside what the laws of ``kernels`` say of the same terms.

Rows come from a CSV with the columns of ``COLUMNS``. What a row measures is its ``phase``:

``decode``, ``prefill``
    One layer: ``batch`` sequences of ``context`` tokens each, or ``batch`` prompts of ``prompt`` tokens behind
    ``context`` tokens. ``measured_ms`` is the sum of matrix products, attention, all-reduces and experts, each timed
    alone, without norms, activations and gaps; the columns of ``PARTS`` have its parts, if they are there.
``attention_decode``, ``attention_prefill``
    Attention alone, as it runs in a layer.
``all_reduce_graph``, ``all_reduce_eager``
    One all-reduce of ``batch`` numbers of 16 bits, in a CUDA graph, or launched from the host, as those in ``prefill``
    rows are.
``layer_gemms``, ``op_qkv_proj``, ``op_o_proj``, ``op_gate_up_proj``, ``op_down_proj``, ``op_lm_head``
    Matrix products of ``batch`` tokens: all of a layer, or one (and ``op_q_proj``, ``op_k_proj``, ``op_v_proj``,
    ``op_gate_proj``, ``op_up_proj``: parts of those that engines multiply at once).
``op_sampler``
    Sampling for ``batch`` sequences.

Other phases are left out, with the reason. Rows can also be made from operator tables.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import median

from helixsim.domain.engine import EngineSpec
from helixsim.domain.layers import Layer, Matrix
from helixsim.domain.model import ACTIVATION_BYTES, ModelSpec
from helixsim.domain.placement import LayerRange
from helixsim.domain.step_time import BatchShape, StepTime, prefill_pairs
from helixsim.errors import DataError, unknown_name
from helixsim.hardware import catalog
from helixsim.hardware.kernels import ALL_REDUCES_PER_LAYER, Node
from helixsim.hardware.measured import csv_rows, number_of, whole_number_of
from helixsim.hardware.operator_layers import matrices_alone
from helixsim.hardware.roofline import roofline
from helixsim.units import NS_PER_S

_MS_PER_S = 1000.0
_MIB = 2**20

COLUMNS = ("gpu", "model", "tp", "precision", "phase", "batch", "prompt", "context", "measured_ms")
PARTS = {"gemm_ms": "products", "attention_ms": "attention", "allreduce_ms": "all-reduces", "moe_ms": "experts"}
"""Columns of the parts of a layer, and what they are called."""

_ELEMENTWISE = (
    *("op_act_fn", "op_embedding", "op_final_layernorm", "op_input_layernorm", "op_layernorm", "op_post_layernorm"),
    *("op_rope", "op_rotary_emb", "layer_norm_rope_act_add"),
)
_GAPS = "element-wise kernels alone; the law has one constant for them and the gaps between all kernels"
LEFT_OUT: Mapping[str, str] = dict.fromkeys(_ELEMENTWISE, _GAPS) | {"op_attn": "attention whose context is not stated"}
"""Phases that are known and not compared, and why."""

_GRAPH, _EAGER = "all_reduce_graph", "all_reduce_eager"
_LAYERS = {"decode": True, "prefill": False}
_ATTENTION = {"attention_decode": True, "attention_prefill": False}
_MATRICES: Mapping[str, tuple[str, Callable[[Matrix], Matrix]]] = {
    "op_qkv_proj": ("qkv", lambda matrix: matrix),
    "op_q_proj": ("qkv", lambda qkv: replace(qkv, outputs=qkv.outputs - qkv.kv_outputs, kv_outputs=0)),
    "op_k_proj": ("qkv", lambda qkv: replace(qkv, outputs=qkv.kv_outputs // 2, kv_outputs=qkv.kv_outputs // 2)),
    "op_v_proj": ("qkv", lambda qkv: replace(qkv, outputs=qkv.kv_outputs // 2, kv_outputs=qkv.kv_outputs // 2)),
    "op_o_proj": ("attention_output", lambda matrix: matrix),
    "op_gate_up_proj": ("gate_up", lambda matrix: matrix),
    "op_gate_proj": ("gate_up", lambda both: replace(both, outputs=both.outputs // 2)),
    "op_up_proj": ("gate_up", lambda both: replace(both, outputs=both.outputs // 2)),
    "op_down_proj": ("down", lambda matrix: matrix),
}
_PHASES = (*_LAYERS, *_ATTENTION, _GRAPH, _EAGER, "layer_gemms", *_MATRICES, "op_lm_head", "op_sampler", *LEFT_OUT)

_CACHES_MIB = {"l40s": 96, "rtx-4090": 72, "rtx-pro-6000": 128}
CACHE_BYTES_PER_S = 2.2e12
"""Second-level caches (NVIDIA's descriptions of Ada and RTX Blackwell) and how fast they are read.

Kernels of layers are timed alone, over and over, and find keys and values that fit into them there. No engine does:
weights of other layers pass in between, and ``attention_decode`` timed in an engine reads the memory. The rate was read
off L40S and holds for RTX PRO 6000; caches of other GPUs are small beside the bandwidth of their memory.
"""

_ATTENTION_ALONE = EngineSpec("kernels", copies_activations=False, shares_weight_reads=True)


@dataclass(frozen=True, slots=True)
class KernelRow:
    """One measurement; ``parts_ms`` are (name, time) of the parts of a layer.

    ``is_captured``: all-reduces ran in a CUDA graph. In a CSV they do but for prompts and ``all_reduce_eager``.
    """

    gpu: str
    model: str
    gpus: int
    precision: str
    phase: str
    batch: int
    prompt: int
    context: int
    measured_ms: float
    parts_ms: tuple[tuple[str, float], ...] = ()
    is_captured: bool = True


@dataclass(frozen=True, slots=True)
class Pair:
    """A measured time and the law's [ms]: of which GPU and weights, what it is, and for how large a batch."""

    gpu: str
    weights: str
    phase: str
    term: str
    regime: str
    measured_ms: float
    predicted_ms: float

    @property
    def error(self) -> float:
        """How far the law is off, relative to the measured time."""
        return self.predicted_ms / self.measured_ms - 1.0


@dataclass(frozen=True, slots=True)
class Errors:
    """Errors of several pairs: how many, |error| in the middle and of nine in ten, and the error in the middle."""

    count: int
    median: float
    p90: float
    bias: float


def read_rows(path: Path) -> list[KernelRow]:
    """Return the rows of a CSV.

    Raises
    ------
    DataError
        With the row, for columns, phases or numbers that make no sense.
    """
    found = []
    for where, row in csv_rows(path, COLUMNS):
        phase = row["phase"]
        if phase not in _PHASES:
            raise DataError(f"{where}: {unknown_name('phase', phase, _PHASES)}")
        measured_ms = number_of(where, row, "measured_ms")
        if measured_ms <= 0:
            raise DataError(f"{where}: measured_ms must be above zero")
        sizes = {name: number_of(where, row, name) for name in ("prompt", "context")}
        for name, size in sizes.items():
            if size != int(size):
                raise DataError(f"{where}: {name}: expected whole tokens, got {row[name]!r}")
        prompt, context = (int(size) for size in sizes.values())
        if prompt == 0 and phase in ("prefill", "attention_prefill"):
            raise DataError(f"{where}: a prompt of no tokens")
        parts = [(part, number_of(where, row, column)) for column, part in PARTS.items() if row.get(column)]
        gpus, batch = whole_number_of(where, row, "tp"), whole_number_of(where, row, "batch")
        names = (row["gpu"], row["model"], gpus, row["precision"], phase)
        is_captured = phase not in ("prefill", _EAGER)
        found.append(KernelRow(*names, batch, prompt, context, measured_ms, tuple(parts), is_captured))
    return found


def fits_cache(gpu: str, size_bytes: float) -> bool:
    """Return whether kernels that are timed alone, over and over, find so much in the GPU's cache."""
    return size_bytes <= _CACHES_MIB.get(gpu, 0) * _MIB


def compare(measured: Iterable[KernelRow]) -> tuple[list[Pair], Counter[str]]:
    """Return each row, and each part of it, beside the law, and how many rows are left out for which reason."""
    pairs: list[Pair] = []
    left_out: Counter[str] = Counter()
    for row in measured:
        if row.phase in LEFT_OUT:
            left_out[f"{row.phase}: {LEFT_OUT[row.phase]}"] += 1
        elif row.gpu not in catalog.gpu_names():
            left_out[f"no profile of GPU {row.gpu}"] += 1
        elif row.phase not in (_GRAPH, _EAGER) and row.model not in catalog.model_names():
            left_out[f"no profile of model {row.model}"] += 1
        else:
            pairs += _pairs(row)
    return pairs, left_out


def errors(pairs: Sequence[Pair]) -> Errors:
    """Return the errors of pairs, of which there is one at least."""
    off = sorted(abs(pair.error) for pair in pairs)
    return Errors(len(off), median(off), off[math.ceil(0.9 * len(off)) - 1], median(pair.error for pair in pairs))


def _pairs(row: KernelRow) -> Iterator[Pair]:
    if row.phase in (_GRAPH, _EAGER):
        node, size_bytes = _node(row.gpu, row.gpus), row.batch * ACTIVATION_BYTES
        regime = "to 512 KiB" if size_bytes <= _MIB / 2 else "to 8 MiB" if size_bytes <= 8 * _MIB else "above 8 MiB"
        predicted_s = node.all_reduce_s(row.batch, 1.0, is_captured=row.is_captured)
        yield Pair(row.gpu, "any", row.phase, f"{row.gpus} GPUs", regime, row.measured_ms, predicted_s * _MS_PER_S)
        return
    kind = _Kind.of(row.gpu, row.gpus, row.model, row.precision)
    is_prompt = not (_LAYERS | _ATTENTION).get(row.phase, True)
    tokens = row.batch * row.prompt if is_prompt else row.batch
    regime = "to 64 tokens" if tokens <= 64 else "to 512" if tokens <= 512 else "above 512"
    weights = f"{row.precision} experts" if kind.layer.experts else row.precision

    def pair(term: str, measured_ms: float, predicted_s: float) -> Pair:
        return Pair(row.gpu, weights, row.phase, term, regime, measured_ms, predicted_s * _MS_PER_S)

    if row.phase in _ATTENTION:
        yield pair("attention", row.measured_ms, kind.attention_s(row, is_prompt))
    elif row.phase in _LAYERS:
        terms = kind.terms_s(row, tokens, is_prompt)
        yield pair("layer", row.measured_ms, sum(terms.values()))
        yield from (pair(name, ms, terms[name]) for name, ms in row.parts_ms if ms > 0)
    else:
        yield pair(row.phase.removeprefix("op_"), row.measured_ms, kind.products_s(row.phase, tokens))


@cache
def _node(gpu: str, gpus: int) -> Node:
    return Node(catalog.load_gpu(gpu), gpus)


@dataclass(frozen=True)
class _Kind:
    """The last layer of a model on a node: first ones may be of another kind."""

    node: Node
    model: ModelSpec
    layer: Layer
    attending: StepTime
    work_ns: Callable[[float], float]

    @staticmethod
    @cache
    def of(gpu: str, gpus: int, name: str, precision: str) -> _Kind:
        node, model = _node(gpu, gpus), catalog.load_model(name, precision)
        compute = roofline(model, node.gpu, gpus)
        last = LayerRange(model.num_layers - 1, model.num_layers)
        times = compute.layer_times(last)[0]
        assert times.token_work is not None, "the laws know the work of tokens apart"
        step_time = StepTime(compute, _ATTENTION_ALONE, last, model.num_layers)
        return _Kind(node, model, model.layers[-1], step_time, times.token_work)

    def attention_s(self, row: KernelRow, is_prompt: bool) -> float:
        """Return what attention adds to the work of the tokens.

        That of latent attention has its matrices in it, and the kernels between them: it is measured as one module.
        """
        if is_prompt:
            tokens = row.batch * row.prompt
            shape = BatchShape(tokens, row.batch * prefill_pairs(row.prompt, row.context), row.batch)
        else:
            tokens = row.batch
            shape = BatchShape(decode_seqs=tokens, decode_context=tokens * row.context)
        added_s = (self.attending.ns(shape) - self.work_ns(tokens)) / NS_PER_S
        if row.phase == "decode":
            added_s -= self._cached_s(tokens, row.context)
        alone = matrices_alone(self.layer)
        inside = [matrix for matrix in self.layer.matrices if matrix not in alone]
        if inside and self.layer.attention is not None:
            added_s += self.node.latent_s(self.layer.attention)
        return added_s + sum(self.node.gemm_s(matrix, tokens) for matrix in inside)

    def _cached_s(self, seqs: int, context: int) -> float:
        """Return how much sooner the keys and values of a decode step are read if the GPU's cache has them [s]."""
        attention, kv_bits = self.layer.attention, self.model.kv_bits
        if attention is None:
            return 0.0
        read = seqs * (context if attention.most_attended is None else min(context, attention.most_attended))
        size_bytes = read * attention.kv_numbers * kv_bits / 8 / min(self.node.tensor, attention.num_kv_heads)
        if not fits_cache(self.node.gpu.name, size_bytes):
            return 0.0
        read_s = self.node.kv_read_s(attention, kv_bits, read)
        slowest_s = read_s * self.node.wide_seqs(attention) / seqs  # by the cores, wherever they read from
        return max(read_s, slowest_s) - max(min(read_s, size_bytes / CACHE_BYTES_PER_S), slowest_s)

    def terms_s(self, row: KernelRow, tokens: int, is_prompt: bool) -> dict[str, float]:
        """Return the parts of a layer that the tables of layers have; they leave out routers."""
        experts = self.layer.experts
        return {
            "products": self.products_s("layer_gemms", tokens),
            "attention": self.attention_s(row, is_prompt),
            "all-reduces": ALL_REDUCES_PER_LAYER
            * self.node.all_reduce_s(self.model.hidden_size, tokens, is_captured=row.is_captured),
            "experts": self.node.experts_s(experts, tokens) if experts else 0.0,
        }

    def products_s(self, phase: str, tokens: int) -> float:
        """Return the time of one matrix product, or of all of a layer, the router left out."""
        kernels = self.node.gpu.kernels
        sampler_s = kernels.sampler_s + kernels.sampler_s_per_sequence * tokens
        if phase == "op_sampler":
            return sampler_s
        if phase == "op_lm_head":
            return self.node.head_s(self.model.hidden_size, self.model.vocab_size, tokens) - sampler_s
        matrices = [matrix for matrix in matrices_alone(self.layer) if matrix.name != "router"]
        if phase in _MATRICES:
            name, part = _MATRICES[phase]
            matrices = [part(matrix) for matrix in matrices if matrix.name == name]
        return sum(self.node.gemm_s(matrix, tokens) for matrix in matrices)
