"""The extra ``operators``: what helixsim uses of ``aiconfigurator-core`` (NVIDIA, Apache-2.0), and nothing else of it.

The library holds times of kernels that were measured on data-centre GPUs for vLLM, SGLang and TensorRT-LLM, and
interpolates between them. Its supported names are few (``aiconfigurator_core.sdk.__all__``); the operators that are
built here are behind them, so that versions are bounded above too.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from types import SimpleNamespace
from typing import Any

from helixsim.domain.layers import Attention, Experts, NumberFormat
from helixsim.errors import ConfigError, DataError, shortened
from helixsim.units import NS_PER_MS

DISTRIBUTION = "aiconfigurator-core"
LOWEST, BELOW = (0, 12), (0, 13)
"""Versions whose operators are known here: from ``LOWEST``, below ``BELOW``."""

INSTALL = "pip install 'helixsim[operators]'"

SYSTEMS: Mapping[str, str] = {
    "a100-80g": "a100_sxm",
    "b200": "b200_sxm",
    "b300": "b300_sxm",
    "gb200": "gb200",
    "gb300": "gb300",
    "h100": "h100_sxm",
    "h200": "h200_sxm",
    "l40s": "l40s",
    "rtx-pro-6000": "rtx_pro_6000_server",
}
"""GPUs of ``profiles/gpus`` -> systems of the tables."""

BACKENDS: Mapping[str, str] = {"vllm": "vllm", "sglang": "sglang", "trtllm": "trtllm"}
"""First word of the name of an engine profile -> backends of the tables."""

_EXPERTS_OF: Mapping[str, str] = {"vllm": "0.19.0"}
"""Backend -> version of the tables of routed experts that is nearest to the version of the engine's profile, where the
newest is far: other tables have one version."""

_WEIGHTS = {
    ("fp16", "fp16", False): "bfloat16",
    ("bf16", "fp16", False): "bfloat16",
    ("fp8", "fp8", False): "fp8",
    ("fp8", "fp8", True): "fp8_block",
    ("int8", "int8", False): "sq",
    ("int8", "fp16", False): "int8_wo",
    ("int4", "fp16", False): "int4_wo",
    ("nvfp4", "fp4", False): "nvfp4",
    ("nvfp4", "fp16", False): "w4a16_nvfp4",
    ("mxfp4", "fp16", False): "w4a16_mxfp4",
    ("mxfp4", "fp8", False): "w4a8_mxfp4_mxfp8",
}
"""Name of a format of weights, format of the products, whether it has a scale for each block -> quantisation there."""

_KV = {"fp16": "bfloat16", "bf16": "bfloat16", "fp8": "fp8", "int8": "int8"}

_ELEMENTWISE_SHARE = 0.8
"""Share of the memory bandwidth that the library's own models assume of norms and activations."""

_EXPERT_LOADS = {False: "power_law_1.2", True: "power_law_1.01"}
"""How tokens spread over routed experts in the measurements that the library takes for mixtures of experts without, and
with, shared experts (its models of Qwen3, Mixtral and gpt-oss, and of DeepSeek, Llama 4 and Nemotron)."""


def backend_of(engine: str) -> str | None:
    """Return the backend of the tables for an engine profile; None: the tables have none like it.

    The first word of the name decides, but versions 0.x of vLLM (``vllm-0.4``) are another engine than the tables'.
    """
    word, _, version = engine.partition("-")
    return None if version.startswith("0.") else BACKENDS.get(word)


def installed_version() -> str | None:
    """Return the version of the library, None without it."""
    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_version() -> str:
    """Return the version of the library.

    Raises
    ------
    ConfigError
        If it is not installed, or in a version whose operators are not known here.
    """
    version = installed_version()
    lowest, below = (".".join(map(str, bound)) for bound in (LOWEST, BELOW))
    if version is None:
        raise ConfigError(f"operator tables need {DISTRIBUTION}, which is not installed: {INSTALL}")
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if not LOWEST <= numbers < BELOW:
        raise ConfigError(
            f"operator tables need {DISTRIBUTION} from {lowest} on, below {below}; installed is {version}: {INSTALL}"
        )
    return version


@dataclass(frozen=True)
class Tables:
    """Measured kernels of one engine on one GPU.

    Parameters
    ----------
    gpu, backend
        Whose kernels, as helixsim and as the library call them.
    version, library
        Versions of the engine that was measured, and of the library.
    evaluate
        ``(operators, is_prompt, sequences, tokens of each, past of each) -> (name, ms, energy, source) of each``.
    build
        Makes operators.
    siblings
        Returns the tables of other engines on the same GPU.
    older
        Returns the tables of routed experts whose version is nearest to the engine's profile; None: these.
    """

    gpu: str
    backend: str
    version: str
    library: str
    evaluate: Callable[[str, bool, int, int, int], Sequence[tuple[str, float, float, str]]]
    build: Builder
    siblings: Callable[[], Sequence[Tables]] = tuple
    older: Callable[[], Tables | None] = lambda: None

    @property
    def source(self) -> str:
        """Which tables these are, in words."""
        return f"{self.backend} {self.version} on {SYSTEMS.get(self.gpu, self.gpu)} ({DISTRIBUTION} {self.library})"

    def ns(self, operators: str, seqs: int, tokens: int = 1, past: int = 0, *, is_prompt: bool = False) -> float:
        """Return the time of operators one after the other [ns]."""
        return sum(self.by_source(operators, seqs, tokens, past, is_prompt=is_prompt).values())

    def by_source(
        self, operators: str, seqs: int, tokens: int = 1, past: int = 0, *, is_prompt: bool = False
    ) -> dict[str, float]:
        """Return the same, split by how the library knows it: ``silicon``, ``estimated``, ``empirical``, ``mixed``.

        Raises
        ------
        DataError
            If the tables do not have one of the operators.
        """
        try:
            found = self.evaluate(operators, is_prompt, seqs, tokens, past)
        except Exception as error:  # they share no base; whatever it is, these operators have no time
            raise DataError(f"operator tables of {self.source}: {_shown(error)}") from error
        times: dict[str, float] = defaultdict(float)
        for _, ms, _, source in found:
            times[source] += ms * NS_PER_MS
        return dict(times)


class Builder:
    """Makes operators of one layer; ``text`` of them is what ``Tables.evaluate`` understands."""

    def __init__(self, sdk: SimpleNamespace, database: Any, backend: str) -> None:
        self._sdk = sdk
        self._database = database
        self._backend = backend

    def text(self, operators: Iterable[Any]) -> str:
        """Return operators as one text."""
        return str(self._sdk.engine.build_ops_json(list(operators)))

    def product(self, inputs: int, outputs: int, stored: NumberFormat, *, in_service: bool = False) -> Any:
        """Return a matrix product, under vLLM for weights with a scale for each block that of weights with one scale.

        In its tables, products with blocks take 60 (H100) to 180 us (B200) however small they are. Served engines do
        not: MiniMax M2.5 on B200 and B300 is met to 12 % without this constant, and is predicted 2.4 times as slow
        with it (docs/step-time.md).

        ``in_service``: activations of weights in FP8 with one scale have a scale of the checkpoint, as those of NVIDIA
        do; else it is found at each product, which takes 8 us more under TensorRT-LLM.
        """
        if in_service and stored.name == stored.multiply == "fp8" and not stored.is_blocked:
            known = self._sdk.common.GEMMQuantMode.fp8_static
        else:
            has_blocks = in_service and stored.is_blocked and self._backend != "vllm"
            known = self._weights("GEMMQuantMode", replace(stored, is_blocked=has_blocks))
        return self._sdk.operations.GEMM("product", 1, outputs, inputs, known)

    def elementwise(self, inputs: int, outputs: int) -> Any:
        """Return work on each element of a token's vectors, which it reads and writes."""
        return self._sdk.operations.ElementWise("elementwise", 1, inputs, outputs, _ELEMENTWISE_SHARE)

    def all_reduce(self, width: int, gpus: int) -> Any:
        """Return an all-reduce of a vector of ``width`` numbers for each token."""
        return self._sdk.operations.CustomAllReduce("all_reduce", 1, width, gpus)

    def experts(self, experts: Experts, gpus: int, *, by_expert: bool, has_shared: bool) -> Any:
        """Return routed experts, of which each GPU holds a slice of all, or some as a whole."""
        down = experts.matrices[-1]
        split, load = (1, gpus) if by_expert else (gpus, 1), _EXPERT_LOADS[has_shared]
        stored = self._weights("MoEQuantMode", down.format)
        shape = (down.outputs, down.inputs, experts.per_token, experts.count)
        return self._sdk.operations.MoE("experts", 1, *shape, *split, stored, load, 1)

    def attention(self, attention: Attention, gpus: int, kv: str) -> tuple[Any, Any]:
        """Return the attention of prompts and that of decode steps."""
        heads, kv_heads = attention.num_heads // gpus, math.ceil(attention.num_kv_heads / gpus)
        options = {
            "head_size": attention.key_dim,
            "window_size": attention.window_tokens or 0,
            "use_qk_norm": attention.head_norms,
        }
        common, operations = self._sdk.common, self._sdk.operations
        products = common.FMHAQuantMode.bfloat16
        prompt = operations.ContextAttention("prompt", 1, heads, kv_heads, self._kv(kv), products, **options)
        decode = operations.GenerationAttention("decode", 1, heads, kv_heads, self._kv(kv), **options)
        for made, table in ((prompt, "_context_attention_data"), (decode, "_generation_attention_data")):
            made._lane_order = self._sdk.attention.resolved_lane_order_for_op(self._database, table, None)
        return prompt, decode

    def latent_module(self, attention: Attention, gpus: int, kv: str, stored: NumberFormat) -> tuple[Any, Any]:
        """Return attention of compressed keys and values (MLA) with its matrices, of prompts and of decode steps."""
        heads, products = attention.num_heads, self._sdk.common.FMHAQuantMode.bfloat16
        weights = self._weights("GEMMQuantMode", stored)
        module = self._sdk.operations.MLAModule
        prompt, decode = (
            module("latent", 1, of_prompt, heads // gpus, self._kv(kv), products, weights, native_num_heads=heads)
            for of_prompt in (True, False)
        )
        return prompt, decode

    def latent_attention(self, attention: Attention, gpus: int, kv: str) -> tuple[Any, list[Any]]:
        """Return the same without its matrices: of prompts; of decode steps, with what replaces ``kv_b``.

        Decode steps multiply queries and outputs with the two halves of ``kv_b``, head by head, instead of all keys and
        values.
        """
        common, operations, heads = self._sdk.common, self._sdk.operations, attention.num_heads // gpus
        prompt = operations.ContextMLA("prompt", 1, heads, self._kv(kv), common.FMHAQuantMode.bfloat16)
        before, after = (
            operations.MLABmm("halves", 1, heads, common.GEMMQuantMode.bfloat16, if_pre=is_before)
            for is_before in (True, False)
        )
        return prompt, [before, operations.GenerationMLA("decode", 1, heads, self._kv(kv)), after]

    def _kv(self, kv: str) -> Any:
        if kv not in _KV:
            raise DataError(f"the operator tables know no KV cache in {kv} (known: {', '.join(_KV)})")
        return self._sdk.common.KVCacheQuantMode[_KV[kv]]

    def _weights(self, kind: str, stored: NumberFormat) -> Any:
        known = _WEIGHTS.get((stored.name, stored.multiply, stored.is_blocked))
        if known is None or known not in getattr(self._sdk.common, kind).__members__:
            raise DataError(f"the operator tables know no {stored.name} weights multiplied in {stored.multiply} here")
        return getattr(self._sdk.common, kind)[known]


@cache
def open_tables(gpu: str, backend: str, version: str = "current") -> Tables:
    """Return the tables of a GPU of ``profiles/gpus`` for a backend, in the version the library calls current.

    Parameters
    ----------
    version
        A version that the library has parts of, instead.

    Raises
    ------
    ConfigError
        Without the library, or for a version of it that is not known here.
    DataError
        If the library has no tables of the GPU, or cannot read them.
    """
    library = check_version()
    if gpu not in SYSTEMS:
        raise DataError(f"the operator tables ({DISTRIBUTION} {library}) have no {gpu}, but {', '.join(SYSTEMS)}")
    logging.getLogger("aiconfigurator_core").setLevel(
        logging.ERROR
    )  # it warns of each table that stands in for another
    try:
        names = ("common", "engine", "operations", "operations.attention", "perf_database")
        modules = {name: importlib.import_module(f"aiconfigurator_core.sdk.{name}") for name in names}
        sdk = SimpleNamespace(**{name.rpartition(".")[2]: module for name, module in modules.items()})
        if version == "current":
            version = str(sdk.perf_database.resolve_query_version(SYSTEMS[gpu], backend, "current"))
        database = sdk.perf_database.get_database(SYSTEMS[gpu], backend, version, allow_unlisted_version=True)
        handle = sdk.engine.EngineHandle.for_database(database)
    except Exception as error:
        raise DataError(
            f"operator tables of {gpu} for {backend} ({DISTRIBUTION} {library}): {_shown(error)}"
        ) from error

    def evaluate(operators: str, is_prompt: bool, seqs: int, tokens: int, past: int) -> Any:
        return handle.evaluate_ops_json(operators, is_context=is_prompt, batch_size=seqs, s=tokens, prefix=past)

    build = Builder(sdk, database, backend)
    return Tables(
        gpu, backend, version, library, evaluate, build, partial(_siblings, gpu, backend), partial(_older, gpu, backend)
    )


@cache
def _siblings(gpu: str, backend: str) -> tuple[Tables, ...]:
    others = [other for other in BACKENDS.values() if other != backend]
    return tuple(found for other in others if (found := _opened(gpu, other, "current")) is not None)


@cache
def _older(gpu: str, backend: str) -> Tables | None:
    version = _EXPERTS_OF.get(backend)
    return None if version is None else _opened(gpu, backend, version)


def _opened(gpu: str, backend: str, version: str) -> Tables | None:
    try:
        return open_tables(gpu, backend, version)
    except DataError:
        return None


def static_estimate(
    model: str,
    gpu: str,
    backend: str,
    *,
    tensor_parallel: int,
    data_parallel: int,
    expert_parallel: int,
    sequences: int,
    prompt_tokens: int,
    output_tokens: int,
) -> tuple[float, float]:
    """Return the library's own estimate of a prompt alone and of a decode step of all sequences [ms].

    Parameters
    ----------
    model
        Hugging Face name, as the library knows it.

    Raises
    ------
    ConfigError
        Without the library.
    DataError
        If the library does not know the model, or has no tables for it.
    """
    check_version()
    sizes = (model, SYSTEMS[gpu], backend, tensor_parallel, data_parallel, expert_parallel)
    try:
        handle = _handle(*sizes)
        ttft_ms = handle.predict_prefill_latency(1, prompt_tokens)
        context = prompt_tokens + output_tokens // 2
        tpot_ms = handle.predict_decode_latency(max(1, sequences // data_parallel), context)
    except Exception as error:
        raise DataError(f"{DISTRIBUTION}: {_shown(error)}") from error
    return float(ttft_ms), float(tpot_ms)


@cache
def _handle(model: str, system: str, backend: str, tensor: int, data: int, expert: int) -> Any:
    logging.getLogger("aiconfigurator_core").setLevel(logging.ERROR)
    sdk = importlib.import_module("aiconfigurator_core.sdk")
    total = tensor * data
    split = {"tp_size": tensor, "attention_dp_size": data, "moe_ep_size": expert, "moe_tp_size": total // expert}
    return sdk.EngineHandle.compile(model, system, backend, **split)


def _shown(error: Exception) -> str:
    """Return the message of an error of the library, without the folders of its files."""
    text = " ".join(str(error).split())
    return shortened(re.sub(r"(?:/[^\s/]+)+/(?=[^\s/])", "", text) or type(error).__name__)
