"""``profiles/engines``: what is known about serving engines, one file each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from helixsim.datafiles import data_path
from helixsim.domain.engine import EngineSpec
from helixsim.errors import DataError, unknown_name
from helixsim.hardware.engine_defaults import AS_MEASURED, ByGpu, CudaGraphs, StepDefaults, plain_rules
from helixsim.renames import Renames
from helixsim.units import NS_PER_MS, NS_PER_S, seconds_to_ns
from helixsim.validation import Count, Section, Words, base_unit, read

OVERHEADS = (
    "gather",
    "batch_overhead",
    "sequence_overhead",
    "host",
    "sequence_host",
    "layer_launch",
    "message_overhead",
)
"""Keys of the overheads, which are the fields ``<key>_ns`` of ``EngineSpec``."""

Transfers = Literal["batch", "request"]
MixedBatches = Literal["separate", "shared"]
Batching = Literal["continuous", "prefill_first"]
Overhead = Annotated[float, base_unit("time", zero=True)]

_FORMER = {"watermark": "min_free_share", "memory_fraction": "gpu_memory_utilization"}
_RENAMES = Renames({(*at, old): new for old, new in _FORMER.items() for at in ((), ("sources",))})


Returns = Literal["engine", "coordinator"]
Admission = Literal["prompt", "output", "max_output"]
Scheduling = Literal["fcfs", "priority"]

NOT_STATED = "not stated"

RESERVES_NOTHING = {"max_reserved_share": 1.0, "expected_output_tokens": 1.0}
"""Rules of admission of an engine that admits a request as soon as its prompt fits."""


class EngineSources(Section):
    """Where each figure of an engine comes from."""

    version: Words = NOT_STATED
    gpu_memory_utilization: Words
    block_tokens: Words
    max_num_batched_tokens: Words = NOT_STATED
    ranks_share_budget: Words = NOT_STATED
    max_num_seqs: Words = NOT_STATED
    enable_chunked_prefill: Words = NOT_STATED
    long_prefill_token_threshold: Words = NOT_STATED
    scheduler_recv_interval: Words = NOT_STATED
    scheduling_policy: Words = NOT_STATED
    enable_prefix_caching: Words = NOT_STATED
    cuda_graph_sizes: Words = NOT_STATED
    batching: Words = NOT_STATED
    transfers: Words
    kernels: Words = NOT_STATED
    mixed_batches: Words
    returns: Words = Field(NOT_STATED, alias="return")
    admission: Words = NOT_STATED
    schedule_conservativeness: Words = NOT_STATED
    activation_copy: Words = NOT_STATED
    output_head: Words = NOT_STATED
    gather: Words
    batch_overhead: Words
    sequence_overhead: Words
    host: Words = NOT_STATED
    sequence_host: Words = NOT_STATED
    layer_launch: Words
    message_overhead: Words
    min_free_share: Words


FIGURES = tuple(EngineSources.keys())
"""Everything an engine file states, each with its source."""

NOT_OF_EXPERIMENTS = ("version", "batching", "kernels", "max_num_batched_tokens", "ranks_share_budget", "max_num_seqs",
                      "cuda_graph_sizes")  # fmt: skip
"""Figures that a resolved experiment leaves to the engine's file, unless it states them: some differ between GPUs."""


class EngineFile(Section):
    """``profiles/engines/*.yaml``; overheads [s]."""

    name: Words
    version: str = ""
    gpu_memory_utilization: Annotated[float, Field(ge=0.01, le=1)]
    block_tokens: Count
    max_num_batched_tokens: ByGpu | None = None
    ranks_share_budget: bool = False
    max_num_seqs: ByGpu | None = None
    enable_chunked_prefill: bool = False
    long_prefill_token_threshold: Annotated[int, Field(ge=0, le=10**9)] = 0
    scheduler_recv_interval: Count = 1
    scheduling_policy: Scheduling = "fcfs"
    enable_prefix_caching: bool = False
    cuda_graph_sizes: CudaGraphs | None = None
    batching: Batching = "continuous"
    transfers: Transfers
    kernels: Literal["vllm", "sglang", "trtllm"] | None = None
    mixed_batches: MixedBatches
    returns: Returns = Field("coordinator", alias="return")
    admission: Admission = "output"
    schedule_conservativeness: Annotated[float, Field(ge=0, le=100)] | None = None
    activation_copy: bool = True
    output_head: bool = False
    gather: Overhead
    batch_overhead: Overhead
    sequence_overhead: Overhead
    host: Overhead = 0.0
    sequence_host: Overhead = 0.0
    layer_launch: Overhead
    message_overhead: Overhead
    min_free_share: Annotated[float, Field(ge=0, le=0.99)]
    sources: EngineSources


@dataclass(frozen=True, slots=True)
class EngineProfile:
    """An engine's overheads and what it does unless it is told otherwise.

    Parameters
    ----------
    gpu_memory_utilization
        Share of usable GPU memory for weights and KV cache.
    block_tokens
        Tokens of one KV block.
    batching
        Batching policy of systems that state none.
    transfers
        What travels as one message: a ``batch`` or a ``request``.
    steps
        Limits of a step, some of them chosen by GPU.
    kernels
        Engine whose kernels it runs, in the laws of ``profiles/kernels``; None: its own.
    sources
        (figure, where it comes from) pairs.
    """

    spec: EngineSpec
    gpu_memory_utilization: float
    block_tokens: int
    transfers: str
    batching: str = "continuous"
    steps: StepDefaults = AS_MEASURED
    kernels: str | None = None
    sources: tuple[tuple[str, str], ...] = ()

    def figures(self) -> dict[str, Any]:
        """Return the figures as they stand in a file."""
        spec, steps = self.spec, self.steps
        limits = {key: getattr(steps, key) for key in ("max_num_batched_tokens", "max_num_seqs")}
        return {
            "version": spec.version,
            "gpu_memory_utilization": self.gpu_memory_utilization,
            "block_tokens": self.block_tokens,
            **{key: None if rules is None else plain_rules(rules) for key, rules in limits.items()},
            "ranks_share_budget": steps.ranks_share_budget,
            "enable_chunked_prefill": spec.chunks_prompts,
            "long_prefill_token_threshold": spec.long_prefill_token_threshold,
            "scheduler_recv_interval": spec.scheduler_recv_interval,
            "scheduling_policy": spec.scheduling_policy,
            "enable_prefix_caching": spec.caches_prefixes,
            "cuda_graph_sizes": None if steps.cuda_graph_sizes is None else steps.cuda_graph_sizes.plain(),
            "batching": self.batching,
            "transfers": self.transfers,
            "kernels": self.kernels,
            "mixed_batches": get_args(MixedBatches)[spec.shares_weight_reads],
            "return": "engine" if spec.loops_inside else "coordinator",
            "admission": spec.admission,
            "schedule_conservativeness": spec.schedule_conservativeness,
            "activation_copy": spec.copies_activations,
            "output_head": spec.has_output_head,
            **{key: f"{getattr(spec, f'{key}_ns') / NS_PER_MS:.6g} ms" for key in OVERHEADS},
            "min_free_share": spec.min_free_share,
        }


def engine_names() -> tuple[str, ...]:
    """Return the names of the engines in ``profiles/engines``."""
    return tuple(sorted(path.stem for path in data_path("profiles", "engines").glob("*.yaml")))


def load_engine(name: str | Path) -> EngineProfile:
    """Return the engine called ``name``, or the one in the YAML file at that path.

    Raises
    ------
    DataError
        For an unknown name or a file that is not an engine profile.
    """
    text = str(name)
    if "/" in text or Path(text).suffix in {".yaml", ".yml"}:
        path = Path(text)
        if not path.is_file():
            raise DataError(f"{path}: no such file (asked for as an engine profile)")
    elif text in engine_names():
        path = data_path("profiles", "engines", f"{text}.yaml")
    else:
        raise DataError(unknown_name("engine", text, engine_names()))
    file = read(path, EngineFile, renames=_RENAMES)
    overheads: dict[str, Any] = {f"{key}_ns": seconds_to_ns(getattr(file, key)) for key in OVERHEADS}
    return EngineProfile(
        spec=EngineSpec(
            name=file.name,
            shares_weight_reads=file.mixed_batches == "shared",
            loops_inside=file.returns == "engine",
            copies_activations=file.activation_copy,
            has_output_head=file.output_head,
            version=file.version,
            admission=file.admission,
            schedule_conservativeness=file.schedule_conservativeness,
            chunks_prompts=file.enable_chunked_prefill,
            long_prefill_token_threshold=file.long_prefill_token_threshold,
            scheduler_recv_interval=file.scheduler_recv_interval,
            scheduling_policy=file.scheduling_policy,
            caches_prefixes=file.enable_prefix_caching,
            pads_prompts=file.cuda_graph_sizes is not None and file.cuda_graph_sizes.prompts,
            min_free_share=file.min_free_share,
            **overheads,
        ),
        gpu_memory_utilization=file.gpu_memory_utilization,
        block_tokens=file.block_tokens,
        transfers=file.transfers,
        batching=file.batching,
        kernels=file.kernels,
        steps=StepDefaults(
            max_num_batched_tokens=file.max_num_batched_tokens,
            max_num_seqs=file.max_num_seqs,
            cuda_graph_sizes=file.cuda_graph_sizes,
            ranks_share_budget=file.ranks_share_budget,
        ),
        sources=tuple(file.sources.model_dump(by_alias=True).items()),
    )


def document(engine: EngineProfile) -> dict[str, Any]:
    """Return the contents of an engine's file; ``load_engine`` understands it when dumped as YAML."""
    return {"name": engine.spec.name, **engine.figures(), "sources": dict(engine.sources)}


def with_overheads_s(engine: EngineProfile, name: str, overheads_s: Mapping[str, float], source: str) -> EngineProfile:
    """Return an engine of another name whose overheads in ``overheads_s`` [s] are replaced, with their source."""
    spec = engine.spec
    values = {key: getattr(spec, f"{key}_ns") for key in OVERHEADS}
    values |= {key: round(seconds * NS_PER_S) for key, seconds in overheads_s.items()}
    return replace(
        engine,
        spec=replace(spec, name=name, **{f"{key}_ns": value for key, value in values.items()}),
        sources=tuple((figure, source if figure in overheads_s else said) for figure, said in engine.sources),
    )
