"""How the servers of the measured points were started, where the source says so.

Settings of InferenceX are those of its public scripts (SemiAnalysisAI/InferenceX, folder ``benchmarks``),
one for each model, format, GPU and engine; only what changes a simulation is here. Those of NVIDIA's own rows are not
public: formats are as its quantised checkpoints state them.
"""

from __future__ import annotations

from typing import Any

from helixsim.accuracy.points import DISAGGREGATED, NVIDIA, MeasuredPoint

_EIGHT_BIT_KV = {
    ("llama-3.1-70b", "vllm-1", None), ("llama-3.1-70b", "trtllm", None),
    ("gpt-oss-120b", "vllm-1", "b200"), ("gpt-oss-120b", "trtllm", "b200"),
    ("deepseek-r1", "trtllm", None), ("deepseek-v3", "trtllm", None),
    ("deepseek-r1", "sglang", "b200"), ("deepseek-v3", "sglang", "b200"),
    ("deepseek-r1", "sglang", "gb200"), ("deepseek-v3", "sglang", "b300"),
    ("qwen3.5-397b-a17b", "sglang", None), ("glm-5", "sglang", "b200"), ("glm-5", "sglang", "b300"),
}  # fmt: skip
"""Model, engine and GPU (None: all) whose servers keep keys and values in FP8 (``--kv-cache-dtype fp8``,
``kv_cache_config: {dtype: fp8}``); others leave it to the engine, which takes 16 bits. Qwen3.5 in bf16 does."""

_PROMPT_TOKENS = {
    ("llama-3.1-70b", "trtllm", "b200"): 16384, ("gpt-oss-120b", "trtllm", None): 20000,
    ("deepseek-r1", "sglang", None): 32768, ("deepseek-v3", "sglang", None): 32768,
    ("glm-5", "sglang", "b200"): 32768, ("glm-5", "sglang", "b300"): 32768,
    ("qwen3.5-397b-a17b", "sglang", "b200"): 32768, ("qwen3.5-397b-a17b", "sglang", None): 16384,
}  # fmt: skip
"""``--max_num_tokens`` (TensorRT-LLM) and ``--chunked-prefill-size`` (SGLang) where they are not the default; DeepSeek
under SGLang differs further (``_sglang_keys``)."""

_LOOKS_SELDOM = frozenset({"deepseek-r1", "deepseek-v3", "qwen3.5-397b-a17b"})
_OFTEN, _SELDOM, _MANY = 10, 30, 16
"""Models whose SGLang servers on Blackwell look for new requests only every ten decode steps
(``--scheduler-recv-interval``), with at least ``_MANY`` in flight every thirty. GLM-5 does every ten in FP4 only,
Qwen3.5 every thirty in FP4 on B200, and every ten in FP8 on B300 from 0.5.10 on."""

_GRAPHS_TO_2048 = [1, 2, 4, *range(8, 256, 8), *range(256, 2049, 16)]
"""``max-cudagraph-capture-size: 2048`` of vLLM's servers of gpt-oss, which compute experts with Marlin on Hopper
(``VLLM_MXFP4_USE_MARLIN``) and with FlashInfer, multiplying in FP8, on Blackwell
(``VLLM_USE_FLASHINFER_MOE_MXFP4_MXFP8``)."""

_OVERLAPPING = frozenset({("gpt-oss-120b", "trtllm")})
"""Model and engine whose scripts let each kernel start while the one before ends (``TRTLLM_ENABLE_PDL=1``, programmatic
dependent launch; those of Llama and DeepSeek do not). It is taken to save what else a step has beside its kernels
(``batch_overhead``), 11 us in each of the 36 layers."""

_BALANCE = {model: {"timeout_iters": 60, "batching_wait_iters": 0} for model in ("deepseek-r1", "deepseek-v3")}
"""``attention_dp_config`` of TensorRT-LLM's servers with attention ranks, which all balance prompts; gpt-oss has the
defaults."""

OUTPUT_SPREAD = 0.1
"""Outputs of NVIDIA's rows are taken to differ by this share: their mean TTFT is that of prompts that arrive one by
one, not of all that began together, except in ``_TOGETHER``."""

_TOGETHER = {("qwen3-32b", "sglang"), ("qwen3-235b-a22b", "sglang"), ("qwen3-235b-a22b", "trtllm-1.0")}
"""Model and engine of rows whose means, of TTFT and of TPOT, are nearer to those of prompts that arrive together, as
outputs of equal length do."""


def kv_format(point: MeasuredPoint) -> str | None:
    """Return the format of keys and values, None for that of the engine (16 bits)."""
    if point.source == NVIDIA:
        return "fp8" if point.engine.startswith("trtllm") and point.weights in ("fp8", "nvfp4") else None
    if point.weights == "bf16":
        return None
    if point.kind == DISAGGREGATED and (point.engine == "trtllm" or point.gpu not in ("h100", "h200")):
        return "fp8"
    if _is_recent_vllm(point):
        return "fp8"
    for gpu in (point.gpu, None):
        if (point.model, point.engine, gpu) in _EIGHT_BIT_KV:
            return "fp8"
    return None


def _is_recent_vllm(point: MeasuredPoint) -> bool:
    """Whether the server has the options that the scripts of MiniMax M2.5 and Kimi K2.5 got for vLLM 0.19 on Blackwell.

    KV cache in FP8, two prompts of tokens in a step, CUDA graphs of up to 2048 tokens; scripts of older versions leave
    these to the engine.
    """
    is_of_them = point.model in ("minimax-m2.5", "kimi-k2.5") and point.engine == "vllm-1"
    return is_of_them and point.gpu in ("b200", "b300") and point.engine_version.startswith("0.19")


def engine_keys(point: MeasuredPoint) -> dict[str, Any]:
    """Return the keys of ``engine`` in which the server differs from the defaults of its profile."""
    if point.source == NVIDIA:
        return {}
    keys: dict[str, Any] = {"enable_prefix_caching": False}
    if (point.model, point.engine) == ("gpt-oss-120b", "vllm-1"):
        backend = "marlin" if point.gpu in ("h100", "h200") else "flashinfer_trtllm"
        keys |= {"moe_backend": backend, "cuda_graph_sizes": _GRAPHS_TO_2048}
    if _is_recent_vllm(point):
        keys |= {"max_num_batched_tokens": 2 * point.prompt_tokens, "cuda_graph_sizes": _GRAPHS_TO_2048}
    if (point.model, point.engine) in _OVERLAPPING:
        keys["batch_overhead"] = "0 ms"
    if point.engine == "sglang":
        keys |= _sglang_keys(point)
    if point.engine == "trtllm" and point.data_parallel > 1:
        keys["attention_dp_config"] = {"enable_balance": True} | _BALANCE.get(point.model, {})
    for gpu in (point.gpu, None):
        stated = _PROMPT_TOKENS.get((point.model, point.engine, gpu))
        if stated is not None:
            return {"max_num_batched_tokens": stated} | keys
    if point.engine == "trtllm":
        keys["max_num_batched_tokens"] = max(8192, point.concurrency + point.prompt_tokens + 128)
    return keys


def _sglang_keys(point: MeasuredPoint) -> dict[str, Any]:
    """Return what else the scripts of SGLang set."""
    keys: dict[str, Any] = {}
    if point.gpu not in ("b200", "b300"):
        return keys
    if point.model.startswith("deepseek") and point.weights == "nvfp4":
        keys["max_num_batched_tokens"] = 16384
    elif point.model.startswith("deepseek") and point.gpus == 4:
        keys["max_num_batched_tokens"] = 8192
    interval = 1
    if point.model in _LOOKS_SELDOM:
        is_often = point.gpu == "b300" and point.weights == "fp8" and not point.engine_version.startswith("0.5.9")
        always = point.model.startswith("qwen") and point.gpu == "b200" and point.weights == "nvfp4"
        interval = _SELDOM if always or (point.concurrency >= _MANY and not is_often) else _OFTEN
    elif point.model == "glm-5" and point.weights == "nvfp4":
        interval = _OFTEN
    if interval > 1:
        keys["scheduler_recv_interval"] = interval
    return keys


_WIRE_GBIT_S = {"h100": 400, "h200": 400, "b200": 400, "b300": 800, "gb200": 7200, "gb300": 7200}
"""Bandwidth of each GPU towards other instances [Gbit/s]: a card for each (ConnectX-7 and 8), NVLink in a rack."""

_PROMPT_RANK_TOKENS = 16640
"""``max_num_tokens`` of TensorRT-LLM's workers that prefill (16 384 for prompts of 1024, 16 640 for those of 8192)."""


_GRAPHS_OF_RACKS = [1, 2, 4, *range(8, 385, 8), *range(416, 769, 32), 1024]
"""``--cuda-graph-bs`` of SGLang's instances that decode with attention ranks in a rack (recipes/gb300-fp8)."""

_CHUNK_OF_B200, _LONG_PROMPT, _RANK_CHUNK_OF_RACKS = 32768, 8192, 16384
"""``--chunked-prefill-size`` of SGLang's instances that prefill, which its attention ranks share: of B200, twice as
much for prompts of 8192 (recipes/b200-fp8, b200-fp4); what a rank has in a rack, 65 536 for four (recipes/gb200-fp4 and
gb300-fp4, 1k1k). No recipe of H200 is known: SGLang's default."""

_EAGER_EXPERTS = "17 ms"
"""What a step with attention ranks on two machines takes beside its kernels where the recipe forces DeepEP's kernels
for prompts on decode steps, too (H100: ``TRTLLM_FORCE_ALLTOALL_METHOD: DeepEP``). They take 0.09 ms more in each of 58
layers than those of low latency (tables of aiconfigurator-core 0.12, ``wideep_deepep_normal``), and have no CUDA graphs
(TensorRT-LLM, ``AlltoallMethodType``): the kernels behind them are launched when the host knows the numbers. That is
0.2 ms more, by the four runs of prompts of 1024 tokens without draft tokens; no other run is in it."""

_FEW_OF_RACK = 4
"""GPUs of an instance of DeepSeek in a rack that leave little memory beside the weights."""


def wire(point: MeasuredPoint) -> str:
    """Return the bandwidth between an instance that prefills and one that decodes: that of the one with fewer GPUs."""
    return f"{_WIRE_GBIT_S[point.gpu] * min(point.gpus, point.prefill_gpus)} Gbit/s"


def leg_keys(point: MeasuredPoint) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return the keys of ``engine``, and of the legs that prefill and decode, of a disaggregated server.

    Those of InferenceX are in the recipes of ishandhanani/srt-slurm (``recipes``).
    """
    engine: dict[str, Any] = {"enable_prefix_caching": False}
    prefill: dict[str, Any] = {}
    decode: dict[str, Any] = {}
    if point.decode_seqs:
        decode["max_num_seqs"] = point.decode_seqs
    if point.engine == "trtllm":
        is_eager = point.gpu == "h100" and point.data_parallel > 1
        engine["batch_overhead"] = _EAGER_EXPERTS if is_eager else "0 ms"  # TRTLLM_ENABLE_PDL=1 in all recipes
        prefill["max_num_batched_tokens"] = max(_PROMPT_RANK_TOKENS, point.prompt_tokens)
    elif point.engine == "sglang" and point.gpu == "b200":
        chunk = _CHUNK_OF_B200 if point.prompt_tokens < _LONG_PROMPT else 2 * _CHUNK_OF_B200
        prefill["max_num_batched_tokens"] = chunk // point.prefill_data_parallel
    elif point.engine == "sglang" and point.gpu in ("gb200", "gb300"):
        prefill["max_num_batched_tokens"] = _RANK_CHUNK_OF_RACKS
        if point.data_parallel > 1:
            decode["cuda_graph_sizes"] = _GRAPHS_OF_RACKS
            if point.weights is None:
                engine["moe_backend"] = "deep_gemm"  # --moe-a2a-backend deepep
        else:  # recipes/gb200-fp4/1k1k/low-latency.yaml
            engine["scheduler_recv_interval"] = _OFTEN
        if min(point.gpus, point.prefill_gpus) <= _FEW_OF_RACK:
            engine["gpu_memory_utilization"] = 0.95  # --mem-fraction-static
    return engine, prefill, decode


_ACCEPTANCE = (0.92, 0.66, 0.24)
"""Shares of steps that accept a first, second and third draft token of DeepSeek R1's module: 1.92, 2.58 and 2.82 tokens
a step (NVIDIA/TensorRT-LLM, docs/source/blogs/tech_blog/blog1, "Autoregressive MTP Layers", 1 000 + 2 000 tokens)."""


_PLANNED_ON_HOST = "9.7 ms"
"""What a step with draft tokens takes longer under SGLang where its servers have FlashInfer's MLA (recipes of H100 and
H200: ``attention-backend: flashinfer``): its kernels are planned on the host, with copies from the GPU that both wait
for, behind drafting and behind verification, and what is drafted behind a verification has no CUDA graph
(sgl-project/sglang pull request 27689: on H200 draft tokens gain nothing so). By the four runs with 1 to 16 requests on
nine instances of tensor parallelism and prompts of 1024 tokens, less what these runs without draft tokens are off by.
"""


def speculation(point: MeasuredPoint) -> dict[str, Any]:
    """Return ``engine.speculative`` of a server that drafts tokens."""
    written = {"method": "mtp", "k": point.drafts, "acceptance": list(_ACCEPTANCE[: point.drafts])}
    is_planned_on_host = point.engine == "sglang" and point.gpu in ("h100", "h200")
    return written | ({"overhead": _PLANNED_ON_HOST} if is_planned_on_host else {})


def output_lengths(point: MeasuredPoint) -> tuple[int, int]:
    """Return the shortest and the longest output of the load [tokens]."""
    longest = point.output_tokens
    if point.source == NVIDIA and (point.model, point.engine) not in _TOGETHER:
        return round(longest * (1 - OUTPUT_SPREAD)), round(longest * (1 + OUTPUT_SPREAD))
    return max(1, round(longest * point.spread)), longest
