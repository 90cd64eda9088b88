"""The format of exp.yaml, from which ``helixsim inspect schema`` derives the reference.

Quantities are text here (``"8 Gbit/s"``); ``resolve`` converts them to base units.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field, Tag

from helixsim.config.autoscaling_schema import AutoscalingSection
from helixsim.config.engine_schema import EngineSection
from helixsim.config.faults_schema import FaultsSection
from helixsim.config.fields import (
    Bandwidth,
    Choice,
    Duration,
    FileSection,
    Latency,
    Name,
    Price,
    Seed,
    Share,
    ShareOrAuto,
    Text,
    TextOr,
    Tokens,
)
from helixsim.config.load_schema import ArrivalsSection, WorkloadSection
from helixsim.config.variation import LinkScaleSection, PlanningSection
from helixsim.config.whatif_schema import WhatifSection
from helixsim.domain.disaggregation import EFFICIENCY
from helixsim.domain.placement import Role
from helixsim.validation import Count, Section

# --- cluster ---------------------------------------------------------------------------------------------------------


class CoordinatorSection(Section):
    """The machine where requests arrive and tokens leave."""

    region: str = Field("default", description="Region of the coordinator; may be one without nodes.")
    nic: Bandwidth | None = Field(None, description="Bandwidth of its NIC, each way (default: unlimited).")


class NodesSection(Section):
    """A group of equal nodes."""

    gpu: str = Field(description="GPU profile: a name of `helixsim profile list gpus`, or the path of a YAML file.")
    count: Count | None = Field(None, description="Number of nodes (default: 1, or the number of `ids`).")
    gpus: Count = Field(1, description="GPUs per node, joined by tensor parallelism.")
    tp: Count | None = Field(
        None,
        description="GPUs that tensor parallelism joins: a node of 8 GPUs with `tp: 4` is two nodes, `NODE.0` and "
        "`NODE.1`, which share its links (default: all `gpus`, unless `helix` finds in a race that fewer do better).",
    )
    region: str = Field("default", description="Region of the nodes.")
    ids: list[Name] | None = Field(None, description="Node ids (default: node type and number, `l4-0`, `t4x4-1`).")
    nic: Bandwidth | None = Field(None, description="Bandwidth of the NIC, each way (default: unlimited).")
    kv_blocks: Count | None = Field(None, description="KV blocks per node (default: by memory).")
    kv_tokens: Count | None = Field(None, description="The same in tokens, rounded down to whole blocks.")
    max_requests: Count | None = Field(None, description="Maximum resident requests (default: unlimited).")
    cost: Price | None = Field(None, description="Price of the whole node (default: that of the GPU profile).")
    role: Role | None = Field(
        None, description="Phases they serve: `prefill`, `decode` or `both` (default; docs/disaggregation.md)."
    )


class LinkClassSection(Section):
    """One direction of a connection."""

    bandwidth: Bandwidth = Field(description="Bandwidth of each direction.")
    latency: Latency = Field(description="Propagation delay.")


LinkClass = Annotated[Text | Annotated[LinkClassSection, Tag("other")], TextOr]


class RegionLinkSection(LinkClassSection):
    """Links between two regions."""

    from_: str = Field(alias="from", description="Region.")
    to: str = Field(description="Region.")
    both: bool = Field(True, description="Apply to both directions.")


Endpoints = Annotated[Text | Annotated[list[str], Tag("other")], TextOr]


class LinkSection(LinkClassSection):
    """Exceptions for single links; later entries override earlier ones."""

    from_: Endpoints = Field(alias="from", description="Node ids, patterns such as `l4-*`, or `coordinator`.")
    to: Endpoints = Field(description="Node ids, patterns such as `l4-*`, or `coordinator`.")
    both: bool = Field(True, description="Apply to both directions.")


class SpreadWidthSection(Section):
    """Half widths of a uniform distribution around the link class."""

    bandwidth: Annotated[Bandwidth | None, Field(description="Half width (default: no spread).")] = None
    latency: Annotated[Latency | None, Field(description="Half width (default: no spread).")] = None


class SpreadSection(Section):
    """Random bandwidth and latency of every link around its class, as in the paper's artifact."""

    seed: Seed = Field(0, description="Seed of the spread, independent of that of the experiment.")
    intra_region: SpreadWidthSection = Field(SpreadWidthSection(), description="Spread inside a region.")
    inter_region: SpreadWidthSection = Field(SpreadWidthSection(), description="Spread between regions.")


class NetworkSection(Section):
    """Links between all pairs of nodes. `links` overrides `spread`, which is around `regions` or the link class."""

    intra_region: LinkClass = Field(description="Links inside a region: a mapping, or the name of a link profile.")
    inter_region: LinkClass | None = Field(None, description="Links between regions; required with several regions.")
    regions: list[RegionLinkSection] = Field([], description="Exceptions for pairs of regions.")
    links: Annotated[Text | Annotated[list[LinkSection], Tag("other")], TextOr] = Field(
        [],
        description="Exceptions for single links, or the path of a CSV file with the columns from, to, bandwidth_mbps "
        "(or _bps, _kbps, _gbps: bit/s), latency_ms (or _ns, _us, _s) and, optionally, both (true or false).",
    )
    sharing: Literal["fifo", "shared"] = Field(
        "fifo",
        description="Messages on a link are sent in sequence (`fifo`: a prompt delays the decode steps behind it) or "
        "share its bandwidth evenly (`shared`, like TCP flows).",
    )
    spread: SpreadSection | None = Field(None, description="Random differences between links.")
    scale: LinkScaleSection | None = Field(None, description="Factors on all links, applied last.")


class ClusterSection(FileSection):
    """The nodes and their network."""

    coordinator: CoordinatorSection = Field(CoordinatorSection(), description="Entry of requests and exit of tokens.")
    nodes: list[NodesSection] = Field(min_length=1, description="The nodes; their order breaks ties.")
    down: list[str] | None = Field(
        None,
        description="Nodes out of service, still paid for: ids, patterns such as `l4-*`, `gpu:t4`, or `region:eu`.",
    )
    removed: list[str] | None = Field(None, description="Nodes given up, which cost nothing; written as in `down`.")
    network: NetworkSection = Field(description="Links.")


# --- systems ---------------------------------------------------------------------------------------------------------


DEFAULT_ROUTING = "flow_weighted"
DEFAULT_BATCHING = "continuous"


class PlacementChoice(Choice):
    """Placement of the layers on the nodes."""

    key: ClassVar[str] = "strategy"
    strategy: str = Field(description="Placement strategy: a name, or a class as `package.module:Class`.")


class RoutingChoice(Choice):
    """Routing of requests."""

    key: ClassVar[str] = "policy"
    policy: str = Field(description="Routing policy: a name, or a class as `package.module:Class`.")


class BatchingChoice(Choice):
    """Batching on the nodes."""

    key: ClassVar[str] = "policy"
    policy: str = Field(description="Batching policy: a name, or a class as `package.module:Class`.")


class KvSection(Section):
    """KV memory rules of admission, the same for every routing policy."""

    max_reserved_share: Share = Field(
        0.9,
        description="Largest share of a node's KV blocks that may be reserved for admitted requests (engines that "
        "reserve nothing for outputs, such as `vllm-1`: 1).",
    )
    expected_output_tokens: Tokens | None = Field(
        None, description="Output length assumed at admission [tokens] (default: mean of the workload; `vllm-1`: 1)."
    )


class NodeOverrideSection(Section):
    """Limits and roles of nodes in one system."""

    match: str = Field(description="Node id or pattern such as `a100-*`.")
    kv_blocks: Count | None = Field(None, description="KV blocks per node (default: by memory).")
    kv_tokens: Count | None = Field(None, description="The same in tokens, rounded down to whole blocks.")
    max_requests: Count | None = Field(None, description="Maximum resident requests.")
    role: Role | None = Field(None, description="Phases they serve (default: that of `cluster.nodes`).")


class LegSection(Section):
    """The nodes that serve one phase alone."""

    placement: PlacementChoice | None = Field(None, description="Placement on these nodes (default: the system's).")
    routing: RoutingChoice | None = Field(
        None, description="Routing of this phase, nodes that serve both included (default: the system's)."
    )
    max_num_batched_tokens: Count | None = Field(None, description="Tokens of a step (default: the engine's).")
    max_num_seqs: Count | None = Field(None, description="Sequences that run at once (default: the engine's).")
    cuda_graph_sizes: list[Count] | None = Field(None, description="As `engine.cuda_graph_sizes` (default: that).")
    data_parallel_size: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        None, description="Attention ranks of a node, as `engine.data_parallel_size` (default: that)."
    )
    enable_expert_parallel: bool | None = Field(
        None, description="Whole experts on each GPU, as `engine.enable_expert_parallel` (default: that)."
    )
    enable_prefix_caching: bool | None = Field(
        None, description="Whether they share KV blocks, as `engine.enable_prefix_caching` (default: that)."
    )


class DisaggregationSection(Section):
    """Prefill and decode on different nodes, by the `role` of nodes (docs/disaggregation.md)."""

    prefill: LegSection = Field(LegSection(), description="Nodes with the role `prefill`.")
    decode: LegSection = Field(LegSection(), description="Nodes with the role `decode`.")
    transfer: Literal["after_prefill", "layerwise"] = Field(
        "after_prefill",
        description="When the KV cache of a prompt is sent: after the whole prompt is computed, or each layer as soon "
        "as it is computed.",
    )
    prefill_share: ShareOrAuto = Field(
        1.0,
        description="Share of each prompt that nodes with the role `prefill` compute, in whole KV blocks; the node "
        "that decodes computes the rest in chunks beside its decode steps, as in Cronus. `auto`: the share with which "
        "both sides finish at the same time, given the requests that wait there.",
    )
    efficiency: Share = Field(EFFICIENCY, description="Share of the bandwidth of links and NICs that transfers reach.")
    latency: Latency = Field("0.4 ms", description="Time per message of a transfer, added to the latency of the link.")
    transfer_bits: Annotated[int, Field(ge=1, le=32)] | None = Field(
        None,
        description="Bits of each number of a KV cache while it is sent: 4 where it is compressed as in ThunderServe "
        "(default: those of the cache).",
    )
    max_local_prefill_length: Annotated[int, Field(ge=0, le=10**9)] | None = Field(
        None,
        description="A prompt is computed by the node that will decode it if at most this many of its tokens are not "
        "in the prefix cache there, as in Dynamo and TensorRT-LLM (`conditional_disagg_config`; default: none is).",
    )

    def leg(self, role: Role) -> LegSection:
        """Return the leg that a role other than ``both`` serves."""
        return self.prefill if role == "prefill" else self.decode


class SystemSection(Section):
    """One of the compared systems."""

    name: Name | None = Field(None, description="Name in tables and files (default: the placement strategy).")
    placement: PlacementChoice = Field(description="Placement strategy, or a mapping of `strategy` and options.")
    routing: RoutingChoice = Field(
        RoutingChoice(policy=DEFAULT_ROUTING),
        description="Routing policy, or a mapping of `policy` and options (default: `auto` with `helix`).",
    )
    batching: BatchingChoice = Field(
        BatchingChoice(policy=DEFAULT_BATCHING),
        description="Batching policy, or a mapping of `policy` and options (default: the engine's, `prefill_first` for "
        "`sglang`, `vllm-0.4` and `helix-vllm-0.4`).",
    )
    kv: KvSection = Field(KvSection(), description="Values that override those of the experiment's `kv`.")
    nodes: list[NodeOverrideSection] = Field([], description="Limits and roles of nodes in this system.")
    disaggregation: DisaggregationSection | None = Field(
        None, description="How nodes with the roles `prefill` and `decode` work together."
    )
    arrivals: ArrivalsSection | None = Field(None, description="Arrivals that replace those of the workload.")
    autoscaling: AutoscalingSection | None = Field(
        None, description="Replicas that come and go with the load (default: all serve all the time)."
    )


# --- the rest --------------------------------------------------------------------------------------------------------


class ObjectiveSection(Section):
    """Limits that requests of a class must meet."""

    ttft: Duration | None = Field(None, description="Maximum time to first token.")
    tpot: Duration | None = Field(None, description="Maximum time per output token after the first.")
    e2el: Duration | None = Field(None, description="Maximum end-to-end latency.")


class SloSection(ObjectiveSection):
    """Service-level objective: limits that requests must meet."""

    classes: dict[Name, ObjectiveSection] | None = Field(
        None, description="Limits of the requests of a class, in place of those above, by name of the class."
    )


class CapacitySection(Section):
    """Estimate of node capacities by planners."""

    model: Literal["paper", "kv_limited"] = Field(
        "paper",
        description="`paper`: estimate of the paper's artifact, at a fixed KV occupancy and without the network; "
        "`kv_limited`: requests in KV memory filled to `kv.max_reserved_share`, over their round-trip time at that "
        "load.",
    )
    kv_occupancy: Share = Field(0.3, description="KV occupancy assumed by `paper`.")
    prompt_tokens: Tokens | None = Field(
        None, description="Assumed mean prompt length [tokens] (default: mean of the workload)."
    )
    output_tokens: Tokens | None = Field(
        None, description="Assumed mean output length [tokens] (default: mean of the workload)."
    )


class ReportSection(Section):
    """Output of a run."""

    sample: Duration | None = Field(None, description="Interval of the time series (default: by length of the run).")


class ExperimentSection(Section):
    """An experiment: a model on a cluster under a workload, served by one or more systems."""

    model_config = ConfigDict(title="helixsim experiment", protected_namespaces=())

    schema_: Literal[1] = Field(alias="schema", description="Version of this format.")
    name: Name | None = Field(None, description="Name of the experiment (default: that of the file).")
    seed: Seed = Field(0, description="Seed of all random streams.")
    model: str = Field(
        description="A name of `helixsim profile list models` or its Hugging Face id (Qwen/Qwen3-32B), or the path of "
        "a Hugging Face config.json or of the folder of a downloaded model."
    )
    precision: str | None = Field(
        None,
        description="Number format of the weights: fp16, bf16, fp8, int8, int4, mxfp4, nvfp4 (default: those that the "
        "checkpoint states, module by module, else fp16).",
    )
    kv_precision: str | None = Field(
        None,
        description="Number format of the KV cache: fp16, bf16, fp8, int8, fp4 (default: that "
        "of the checkpoint, else fp16).",
    )
    max_context_tokens: Count | None = Field(
        None, description="Maximum prompt plus output [tokens], vLLM's max_model_len (default: that of the model)."
    )
    cluster: ClusterSection = Field(description="The cluster, or the path of a YAML file.")
    workload: WorkloadSection = Field(WorkloadSection(), description="The load and its measurement window.")
    systems: list[SystemSection] = Field(min_length=1, description="The compared systems.")
    whatif: list[WhatifSection] | None = Field(
        None, description="Variants of the experiment, compared with the unchanged systems."
    )
    baseline: str | None = Field(
        None, description="System of reference in comparisons (default: `swarm` if there is one, else the last)."
    )
    slo: SloSection = Field(SloSection(), description="Service-level objective.")
    slo_targets: dict[Name, SloSection] | None = Field(
        None, description="Further targets by name, each searched by `capacity`."
    )
    engine: EngineSection = Field(EngineSection(), description="The serving engine.")
    kv: KvSection = Field(KvSection(), description="KV memory rules of admission.")
    capacity: CapacitySection = Field(CapacitySection(), description="Estimate of node capacities by planners.")
    planning: PlanningSection = Field(
        PlanningSection(), description="Load assumed by planners, if it differs from the simulated load."
    )
    faults: FaultsSection | None = Field(None, description="Nodes that fail during a run (default: none).")
    report: ReportSection = Field(ReportSection(), description="Output of a run.")
