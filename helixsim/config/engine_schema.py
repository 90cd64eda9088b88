"""The ``engine`` section of exp.yaml: the serving engine, its scheduler and its overheads."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from helixsim import units
from helixsim.config.fields import Bandwidth, Latency, Share, Size, or_text
from helixsim.domain.engine import AttentionBalance, KvTier
from helixsim.domain.speculation import Speculation
from helixsim.units import seconds_to_ns
from helixsim.validation import Count, Section, Words

DEFAULT_ENGINE = "ideal"

Rate01 = Annotated[float, Field(ge=0, le=1)]


class SpeculativeSection(Section):
    """Speculative decoding: draft tokens that each decode step verifies."""

    method: Literal["draft_model", "mtp"] = Field(
        "draft_model",
        description="What makes draft tokens: a model whose time is `draft_cost`, or `mtp`, the model's own module of "
        "one layer and the output head (multi-token prediction; vLLM's `method: mtp`, SGLang's `EAGLE` of DeepSeek, "
        "TensorRT-LLM's `decoding_type: MTP`).",
    )
    k: Annotated[int, Field(ge=0, le=64)] = Field(
        description="Draft tokens per step and sequence, vLLM's `num_speculative_tokens`; 0: none."
    )
    acceptance: Rate01 | list[Rate01] | None = Field(
        None,
        description="Probability that a draft token is accepted if those before it are; or the share of steps that "
        "accept it, for each of the `k` positions, as vLLM logs (not increasing).",
    )
    accepted: list[Rate01] | None = Field(
        None, description="Instead: shares of the steps that accept 0, 1, ... `k` draft tokens; their sum is 1."
    )
    draft_cost: Annotated[float, Field(ge=0, le=10)] = Field(
        0.0, description="Time to make one draft token, as a share of the time of a decode step without them."
    )
    overhead: Latency = Field(
        "0 ms",
        description="With `mtp`: time of a step for which the GPU waits for the host between verifying and drafting, "
        "as where kernels are planned on the host (docs/engine.md).",
    )

    @model_validator(mode="after")
    def _is_sound(self) -> Self:
        self.speculation()
        return self

    def speculation(self) -> Speculation | None:
        """Return the speculation, None for no draft tokens; ``ValueError`` if the keys contradict each other."""
        k, shares, rates = self.k, self.accepted, self.acceptance
        if (shares is None) == (rates is None):
            raise ValueError("give acceptance or accepted" + ("" if shares is None else ", not both"))
        if isinstance(rates, list) and len(rates) != k:
            raise ValueError(f"acceptance needs one rate for each of k: {k} positions, got {len(rates)}")
        if shares is not None and len(shares) != k + 1:
            raise ValueError(f"accepted needs {k + 1} shares, for 0 to k: {k} tokens, got {len(shares)}")
        if shares is not None:
            found = Speculation.of_counts(tuple(shares), self.draft_cost)
        elif isinstance(rates, list):
            found = Speculation(tuple(rates), self.draft_cost)
        else:
            found = Speculation.of_rate(k, rates or 0.0, self.draft_cost)
        overhead_ns = seconds_to_ns(units.parse(self.overhead, "time"))
        if overhead_ns and self.method != "mtp":
            raise ValueError(f"overhead needs method: mtp (got {self.method}, whose time is draft_cost)")
        return replace(found, is_mtp=self.method == "mtp", overhead_ns=overhead_ns) if k else None


class AttentionDpSection(Section):
    """TensorRT-LLM's ``attention_dp_config``: how prompts of attention ranks wait for each other."""

    enable_balance: bool = Field(False, description="Whether prompts wait until every attention rank has one.")
    timeout_iters: Annotated[int, Field(ge=1, le=10**6)] = Field(
        50, description="Steps after which prompts are computed though a rank has none."
    )
    batching_wait_iters: Annotated[int, Field(ge=0, le=10**6)] = Field(
        10, description="Further steps for which prompts wait when every rank has one."
    )

    def balance(self) -> AttentionBalance | None:
        """Return the rule, None for none."""
        return AttentionBalance(self.timeout_iters, self.batching_wait_iters) if self.enable_balance else None


class KvHostSection(Section):
    """Host memory for KV blocks that the prefix caches of GPUs evict."""

    size: Size = Field(description="Size on each node (vLLM: `kv_offloading_size`, SGLang: `hicache_size`); 0: none.")
    bandwidth: Bandwidth = Field(
        "25 GB/s",
        description="Bandwidth from host memory to each GPU; the default is that of a PCIe 4.0 x16 link in practice.",
    )
    latency: Latency = Field("20 us", description="Latency of a load, added to its bytes over `bandwidth`.")


class KvDiskSection(Section):
    """Disks for KV blocks that host memory evicts."""

    size: Size = Field(description="Size on each node; 0: none.")
    bandwidth: Bandwidth = Field(
        "6 GB/s", description="Read bandwidth of a node's disks; the default is one NVMe disk on PCIe 4.0 x4."
    )
    latency: Latency = Field("0.1 ms", description="Latency of a load, added to its bytes over `bandwidth`.")


class KvOffloadingSection(Section):
    """Further memory for KV blocks that the caches of GPUs evict (docs/prefix-caching.md)."""

    host: KvHostSection = Field(description="Host memory; disks are read through it.")
    disk: KvDiskSection | None = Field(None, description="Disks for blocks that host memory evicts (default: none).")

    def tiers(self) -> tuple[KvTier, ...]:
        """Return the levels in their order."""
        tiers = [_tier("host", self.host)]
        return tuple(tiers if self.disk is None else [*tiers, _tier("disk", self.disk)])


def _tier(name: Literal["host", "disk"], section: KvHostSection | KvDiskSection) -> KvTier:
    size_bytes = int(units.parse(section.size, "size"))
    bytes_per_s = units.parse(section.bandwidth, "bandwidth") / units.BITS_PER_BYTE
    return KvTier(name, size_bytes, bytes_per_s, units.seconds_to_ns(units.parse(section.latency, "time")))


class EngineSection(Section):
    """The serving engine: the name of a profile, or a mapping whose values replace those of the profile."""

    model_config = ConfigDict(json_schema_extra=or_text)

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: object) -> object:
        return {"name": value} if isinstance(value, str) else value

    name: str = Field(
        DEFAULT_ENGINE,
        description="Engine profile: a name of `helixsim profile list engines`, or the path of a YAML file.",
    )
    gpu_memory_utilization: Share | None = Field(
        None, description="Share of usable GPU memory for weights and KV cache (default: the profile's)."
    )
    block_tokens: Annotated[int, Field(ge=1, le=65536)] | None = Field(
        None, description="Tokens per KV block (default: the profile's)."
    )
    max_weight_fraction: Share | None = Field(
        None,
        description="Maximum share of memory for weights in placements (default: as published for a kind of node, else "
        "what leaves KV memory for one context of `max_context_tokens`, or of 4096 tokens if that is not given).",
    )
    max_num_batched_tokens: Count | None = Field(
        None,
        description="Tokens per step: of prompts and decode steps with `return: engine`, of prompts otherwise "
        "(default: the profile's, by GPU).",
    )
    max_num_seqs: Count | None = Field(None, description="Sequences per step (default: the profile's, by GPU).")
    max_prefill_requests: Count | None = Field(None, description="Prompts per step (default: the profile's, by GPU).")
    enable_chunked_prefill: bool | None = Field(
        None,
        description="Whether prompts longer than what is left of `max_num_batched_tokens` are cut (default: the "
        "profile's).",
    )
    long_prefill_token_threshold: Annotated[int, Field(ge=0, le=10**9)] | None = Field(
        None, description="Maximum tokens of one prompt per step; 0: no limit (default: the profile's)."
    )
    scheduler_recv_interval: Count | None = Field(
        None,
        description="Decode steps after which the scheduler looks for new requests, as SGLang's option of this name; "
        "it also looks after each prompt, and when idle (default: the profile's).",
    )
    scheduling_policy: Literal["fcfs", "priority"] | None = Field(
        None,
        description="Order of waiting requests: by arrival (`fcfs`), or by `priority`, lowest value first, then by "
        "arrival (default: the profile's).",
    )
    enable_prefix_caching: bool | None = Field(
        None, description="Whether KV blocks are kept and shared by prompts that begin alike (default: the profile's)."
    )
    kv_offloading: KvOffloadingSection | None = Field(
        None,
        description="Host memory and disks for KV blocks that the prefix cache evicts; a prompt waits until the blocks "
        "that it finds there are back on the GPUs (default: none).",
    )
    speculative: SpeculativeSection | None = Field(None, description="Speculative decoding (default: none).")
    cuda_graph_sizes: list[Count] | None = Field(
        None,
        description="Numbers of tokens that a step is padded to, vLLM's `cudagraph_capture_sizes`; an empty list: no "
        "padding (default: the profile's, by GPU).",
    )
    data_parallel_size: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        None,
        description="Attention ranks of a node (data-parallel attention): each has its own sequences and a copy of all "
        "weights but the routed experts, which serve the tokens of all ranks. `max_num_seqs` and "
        "`max_num_batched_tokens` are those of a rank (default: 1).",
    )
    attention_dp_config: AttentionDpSection | None = Field(
        None,
        description="How prompts of the attention ranks wait for each other, TensorRT-LLM's option of this name "
        "(default: they do not).",
    )
    enable_expert_parallel: bool | None = Field(
        None,
        description="Whether each GPU of a node holds whole experts (expert parallelism) instead of a slice of every "
        "expert, as tensor parallelism has it (default: false).",
    )
    moe_backend: Words | None = Field(
        None,
        description="Kernels of the routed experts, if the server is started with this option: `marlin` (Hopper) or "
        "`flashinfer_trtllm` (Blackwell), as in vLLM; `deep_gemm` (SGLang with DeepEP in a rack; default: the "
        "engine's).",
    )
    transfers: Literal["batch", "request"] | None = Field(
        None,
        description="Contents of a message: all requests of a batch with the same next node (`batch`, engines with "
        "pipeline parallelism) or one request (`request`, Helix's prototype) (default: the profile's).",
    )
    returns: Literal["engine", "coordinator"] | None = Field(
        None,
        alias="return",
        description="Where a token goes from the last stage: to the first one, inside the `engine`, or to the "
        "`coordinator`, which sends the next step (default: the profile's).",
    )
    admission: Literal["prompt", "output", "max_output"] | None = Field(
        None,
        description="KV memory that must be free to admit a request: that of its `prompt`, also that of the `output` "
        "expected (`kv`), or of the longest allowed (`max_output`: `workload.limits.max_output_tokens`) (default: the "
        "profile's).",
    )
    capacity_policy: Literal["guaranteed_no_evict", "max_utilization"] | None = Field(
        None, description="TensorRT-LLM's name of `admission: max_output` and of `admission: prompt`; give one of both."
    )
    schedule_conservativeness: Annotated[float, Field(ge=0, le=100)] | None = Field(
        None,
        description="SGLang's factor of the output that admission keeps memory for: a request enters if its prompt "
        "and output fit beside a share of what running ones may still generate, falling from min(1, 0.7 x this) to "
        "0.14 of that in 600 decode steps (default: the profile's).",
    )
    activation_copy: bool | None = Field(
        None, description="Whether activations are joined on the host and copied to the GPU, once per batch and node."
    )
    output_head: bool | None = Field(
        None, description="Whether the node with the last layer also computes the output head and samples."
    )
    mixed_batches: Literal["separate", "shared"] | None = Field(
        None,
        description="Whether prompts and decode steps of a batch read the weights separately or once for both "
        "(default: the profile's).",
    )
    gather: Latency | None = Field(
        None, description="Host time before a batch is formed; later arrivals join it (default: the profile's)."
    )
    batch_overhead: Latency | None = Field(None, description="Host time per batch (default: the profile's).")
    sequence_overhead: Latency | None = Field(
        None, description="Host time per sequence of a batch (default: the profile's)."
    )
    host: Latency | None = Field(
        None,
        description="Host time for a batch while the GPU computes; together with `sequence_host` a lower bound of the "
        "time of a batch (default: the profile's).",
    )
    sequence_host: Latency | None = Field(
        None, description="The same for each sequence of a batch (default: the profile's)."
    )
    layer_launch: Latency | None = Field(
        None,
        description="Host time to launch one dense layer, a lower bound of its time outside CUDA graphs; layers with "
        "more operations take as much more (default: the profile's).",
    )
    message_overhead: Latency | None = Field(
        None, description="Host time per message, added to the latency of the link (default: the profile's)."
    )
    min_free_share: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        None,
        description="Share of KV blocks that must stay free at admission (vLLM: watermark) (default: the profile's).",
    )
    timings: str = Field(
        "auto",
        description="Where times per layer come from: a file (CSV of measured times, or YAML of `profile fit`); "
        "`analytic` (laws of kernels and datasheets); `operators` (tables of measured kernels, extra `operators`); "
        "`auto`: published timings of the model and GPU, else operator tables where they are installed and have the "
        "GPU and the model, else the laws.",
    )
    allow_unsupported: bool | None = Field(
        None,
        description="Simulate what the models do not represent (an engine on a GPU that it does not run on), labelled "
        "`unsupported`; `--allow-unsupported` sets it (default: refuse).",
    )
    limits: str | None = Field(None, description="CSV of measured KV and batch limits that replaces the profiles.")
    calibration: str | None = Field(
        None,
        description="File of `compare --calibrate`: host times and factors on the kernels of GPUs that meet measured "
        "points (default: none). Host times given here go before those of the file.",
    )
