"""Times real transformer layers on this machine's GPU (or CPU), in the form ``profile fit`` reads.

One decoder layer of a model's shape, with random weights: norms, projections with grouped-query attention, rotary
position left out (it is a thousandth of the work), scaled dot-product attention over the context, gated MLP. PyTorch
(extra ``[profile]``) is needed here and nowhere else.
"""

from __future__ import annotations

import csv
import io
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helixsim.domain.layers import Attention
from helixsim.domain.model import ModelSpec
from helixsim.errors import ConfigError
from helixsim.writing import new_file

HEADER = ("model", "gpu", "phase", "batch_tokens", "ms_per_layer", "context_tokens")

_WEIGHTS_ROTATED_BYTES = 256 * 2**20
"""Weights of the copies of a layer that are used in turn: more than any cache, so that they come from memory."""


@dataclass(frozen=True, slots=True)
class Timed:
    """Median time of one layer [ms] for a batch [tokens, or sequences] of a phase at a context [tokens]."""

    phase: str
    batch: int
    ms: float
    context_tokens: int


def measure(
    model: ModelSpec,
    *,
    prefill_tokens: Sequence[int],
    decode_seqs: Sequence[int],
    context_tokens: int,
    repeats: int = 20,
    device: str = "cuda",
    progress: Callable[[float, str], None] | None = None,
) -> list[Timed]:
    """Time prefill of one prompt of each length, and one decode step of each number of sequences.

    Parameters
    ----------
    context_tokens
        Tokens each decoding sequence has cached.
    repeats
        Timed runs of each point after three that are not; the median counts.

    Raises
    ------
    ConfigError
        If PyTorch or the device is missing, or the model is a mixture of experts or not 16-bit.
    """
    torch = _torch(device)
    if not _is_plain(model) or model.precision not in {"fp16", "bf16"}:
        raise ConfigError(f"profile measure times dense 16-bit models only, {model.name} is not one")
    layers = _layers(torch, model, device)
    points = [("prefill", batch) for batch in prefill_tokens] + [("decode", batch) for batch in decode_seqs]
    timed = []
    with torch.inference_mode():
        for number, (phase, batch) in enumerate(points):
            step = _prefill(torch, model, layers, batch) if phase == "prefill" else _decode(
                torch, model, layers, batch, context_tokens
            )  # fmt: skip
            context = 0 if phase == "prefill" else context_tokens
            timed.append(Timed(phase, batch, _median_ms(torch, step, repeats, device), context))
            if progress is not None:
                progress((number + 1) / len(points), f"{phase} {batch}")
    return timed


def describe_machine(device: str) -> str:
    """Return device, driver and library versions, for the provenance of a profile."""
    torch = _torch(device)
    if device == "cuda":
        name, cuda = torch.cuda.get_device_name(), torch.version.cuda
        return f"{name}, CUDA {cuda}, PyTorch {torch.__version__}, Python {platform.python_version()}"
    return f"{platform.machine()} CPU, PyTorch {torch.__version__}, Python {platform.python_version()}"


def write_csv(path: Path, model: str, gpu: str, timed: Sequence[Timed]) -> None:
    """Write timings as ``measured.read_timings`` reads them."""
    with new_file(path, devices=True) as raw, io.TextIOWrapper(raw, encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEADER)
        writer.writerows((model, gpu, row.phase, row.batch, f"{row.ms:.4f}", row.context_tokens) for row in timed)


def _torch(device: str) -> Any:
    try:
        import torch
    except ImportError as error:
        raise ConfigError("profile measure needs PyTorch: pip install 'helixsim[profile]'") from error
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("no CUDA GPU that PyTorch can use on this machine")
    return torch


def _attention(model: ModelSpec) -> Attention:
    attention = model.layers[0].attention
    assert attention is not None  # _is_plain
    return attention


def _is_plain(model: ModelSpec) -> bool:
    """Whether all layers are equal, dense and attend to the whole context."""
    first = model.layers[0]
    return model.is_uniform and first.experts is None and first.attention is not None and first.attention.kind == "full"


def _layers(torch: Any, model: ModelSpec, device: str) -> list[dict[str, Any]]:
    """Return enough copies of one layer's weights that each use finds them in memory, not in a cache."""
    dtype = torch.bfloat16 if model.precision == "bf16" or device == "cpu" else torch.float16
    hidden, inner, attention = model.hidden_size, model.intermediate_size, _attention(model)
    queries, keys = attention.num_heads * attention.key_dim, attention.num_kv_heads * attention.key_dim
    shapes = {
        "qkv": (queries + 2 * keys, hidden),
        "out": (hidden, queries),
        "gate_up": (2 * inner, hidden),
        "down": (hidden, inner),
    }
    weight_bytes = 2 * sum(rows * columns for rows, columns in shapes.values())
    copies = max(2, -(-_WEIGHTS_ROTATED_BYTES // weight_bytes)) if device == "cuda" else 2
    torch.manual_seed(0)
    return [
        {name: torch.randn(shape, dtype=dtype, device=device) * shape[1] ** -0.5 for name, shape in shapes.items()}
        | {"norm": torch.ones(hidden, dtype=dtype, device=device)}
        for _ in range(copies)
    ]


def _prefill(torch: Any, model: ModelSpec, layers: list[dict[str, Any]], tokens: int) -> Callable[[int], Any]:
    first = layers[0]["qkv"]
    x = torch.randn(1, tokens, model.hidden_size, dtype=first.dtype, device=first.device)
    return lambda turn: _forward(torch, model, layers[turn % len(layers)], x, None)


def _decode(
    torch: Any, model: ModelSpec, layers: list[dict[str, Any]], seqs: int, context: int
) -> Callable[[int], Any]:
    first = layers[0]["qkv"]
    x = torch.randn(seqs, 1, model.hidden_size, dtype=first.dtype, device=first.device)
    attention = _attention(model)
    shape = (2, seqs, attention.num_kv_heads, context, attention.key_dim)
    cache = torch.randn(shape, dtype=first.dtype, device=first.device)
    return lambda turn: _forward(torch, model, layers[turn % len(layers)], x, cache)


def _forward(torch: Any, model: ModelSpec, weights: dict[str, Any], x: Any, cache: Any) -> Any:
    """Run one layer on ``x`` [sequences, tokens, hidden]; ``cache`` holds the keys and values of the context."""
    nn = torch.nn.functional
    attention = _attention(model)
    heads, kv_heads, width = attention.num_heads, attention.num_kv_heads, attention.key_dim
    seqs, tokens, hidden = x.shape
    projected = nn.linear(nn.rms_norm(x, (hidden,), weights["norm"]), weights["qkv"])
    q, k, v = projected.split([heads * width, kv_heads * width, kv_heads * width], dim=-1)
    q = q.view(seqs, tokens, heads, width).transpose(1, 2)
    k, v = (part.view(seqs, tokens, kv_heads, width).transpose(1, 2) for part in (k, v))
    if cache is not None:  # the new token's place is the last of the cache
        k, v = cache[0], cache[1]
    attended = nn.scaled_dot_product_attention(q, k, v, is_causal=cache is None, enable_gqa=heads != kv_heads)
    x = x + nn.linear(attended.transpose(1, 2).reshape(seqs, tokens, heads * width), weights["out"])
    gate, up = nn.linear(nn.rms_norm(x, (hidden,), weights["norm"]), weights["gate_up"]).chunk(2, dim=-1)
    return x + nn.linear(nn.silu(gate) * up, weights["down"])


def _median_ms(torch: Any, step: Callable[[int], Any], repeats: int, device: str) -> float:
    for turn in range(3):
        step(turn)
    times = []
    for turn in range(repeats):
        if device == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            step(turn)
            end.record()
            torch.cuda.synchronize()
            times.append(begin.elapsed_time(end))
        else:
            started_s = time.perf_counter()
            step(turn)
            times.append((time.perf_counter() - started_s) * 1e3)
    return float(statistics.median(times))
