"""How the servers of the measured points were started, where the source says so.

Settings of InferenceX are those of its public scripts (SemiAnalysisAI/InferenceX, folder ``benchmarks``),
one for each model, format, GPU and engine; only what changes a simulation is here. Those of NVIDIA's own rows are not
public: formats are as its quantised checkpoints state them.
"""

from __future__ import annotations

from typing import Any

from helixsim.accuracy.points import NVIDIA, MeasuredPoint

_EIGHT_BIT_KV = {
    ("llama-3.1-70b", "vllm-1", None), ("llama-3.1-70b", "trtllm", None),
    ("gpt-oss-120b", "vllm-1", "b200"), ("gpt-oss-120b", "trtllm", "b200"),
    ("deepseek-r1", "trtllm", None), ("deepseek-v3", "trtllm", None),
    ("deepseek-r1", "sglang", "b200"), ("deepseek-v3", "sglang", "b200"),
    ("deepseek-r1", "sglang", "gb200"), ("deepseek-v3", "sglang", "b300"),
    ("qwen3.5-397b-a17b", "sglang", "b200"), ("qwen3.5-397b-a17b", "sglang", "b300"),
}  # fmt: skip
"""Model, engine and GPU (None: all) whose servers keep keys and values in FP8 (``--kv-cache-dtype fp8``,
``kv_cache_config: {dtype: fp8}``); others leave it to the engine, which takes 16 bits. Qwen3.5 in bf16 does."""

_PROMPT_TOKENS = {
    ("llama-3.1-70b", "trtllm", "b200"): 16384, ("gpt-oss-120b", "trtllm", None): 20000,
    ("deepseek-r1", "sglang", "h200"): 32768, ("deepseek-v3", "sglang", "h200"): 32768,
    ("deepseek-r1", "sglang", "b200"): 16384, ("deepseek-v3", "sglang", "b200"): 16384,
    ("qwen3.5-397b-a17b", "sglang", None): 32768,
}  # fmt: skip
"""``--max_num_tokens`` (TensorRT-LLM) and ``--chunked-prefill-size`` (SGLang) where they are not the default."""

OUTPUT_SPREAD = 0.1
"""Outputs of NVIDIA's rows are taken to differ by this share: their mean TTFT is that of prompts that arrive one by
one, not of all that began together, except in ``_TOGETHER``."""

_TOGETHER = {("qwen3-32b", "sglang")}
"""Model and engine of rows whose mean TTFT is that of prompts that arrive together, as outputs of equal length do where
prompts go before decode steps."""


def kv_format(point: MeasuredPoint) -> str | None:
    """Return the format of keys and values, None for that of the engine (16 bits)."""
    if point.source == NVIDIA:
        return "fp8" if point.engine.startswith("trtllm") and point.weights in ("fp8", "nvfp4") else None
    if point.weights == "bf16":
        return None
    for gpu in (point.gpu, None):
        if (point.model, point.engine, gpu) in _EIGHT_BIT_KV:
            return "fp8"
    return None


def engine_keys(point: MeasuredPoint) -> dict[str, Any]:
    """Return the keys of ``engine`` in which the server differs from the defaults of its profile."""
    if point.source == NVIDIA:
        return {}
    keys: dict[str, Any] = {"enable_prefix_caching": False}
    for gpu in (point.gpu, None):
        stated = _PROMPT_TOKENS.get((point.model, point.engine, gpu))
        if stated is not None:
            return keys | {"max_num_batched_tokens": stated}
    if point.engine == "trtllm":
        keys["max_num_batched_tokens"] = max(8192, point.concurrency + point.prompt_tokens + 128)
    return keys


def output_lengths(point: MeasuredPoint) -> tuple[int, int]:
    """Return the shortest and the longest output of the load [tokens]."""
    longest = point.output_tokens
    if point.source == NVIDIA and (point.model, point.engine) not in _TOGETHER:
        return round(longest * (1 - OUTPUT_SPREAD)), round(longest * (1 + OUTPUT_SPREAD))
    return max(1, round(longest * point.spread)), longest
