"""The format of exp.yaml. ``helixsim inspect schema`` prints the reference made from this module.

Quantities stay text here (``"8 Gbit/s"``); ``resolve`` turns the whole into plain values in base units.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field, Tag

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
    Text,
    TextOr,
    Tokens,
)
from helixsim.config.load_schema import ArrivalsSection, WorkloadSection
from helixsim.config.variation import LinkScaleSection, PlanningSection
from helixsim.config.whatif_schema import WhatifSection
from helixsim.validation import Count, Section

# --- cluster ---------------------------------------------------------------------------------------------------------


class CoordinatorSection(Section):
    """The machine where requests enter and tokens leave."""

    region: str = Field("default", description="Region it stands in; may be one without nodes.")
    nic: Bandwidth | None = Field(None, description="Bandwidth of its network card, each way; without: never a limit.")


class NodesSection(Section):
    """One or more equal nodes."""

    gpu: str = Field(description="GPU profile: a name of `helixsim profile list gpus`, or the path of a YAML file.")
    count: Count | None = Field(None, description="Number of such nodes; without: one, or as many as `ids`.")
    gpus: Count = Field(1, description="GPUs that work as one node by tensor parallelism.")
    region: str = Field("default", description="Region the nodes stand in.")
    ids: list[Name] | None = Field(None, description="Their ids; without: kind and running number, `l4-0`, `t4x4-1`.")
    nic: Bandwidth | None = Field(None, description="Bandwidth of the network card, each way; without: never a limit.")
    kv_blocks: Count | None = Field(None, description="KV blocks pinned, instead of what memory allows.")
    kv_tokens: Count | None = Field(None, description="The same in tokens, rounded down to whole blocks.")
    max_requests: Count | None = Field(None, description="Most resident requests; without: no cap.")
    cost: Price | None = Field(None, description="Price of the whole node; without: that of its GPUs' profile.")


class LinkClassSection(Section):
    """One direction of a connection."""

    bandwidth: Bandwidth = Field(description="Bandwidth of each direction.")
    latency: Latency = Field(description="Time until the first bit arrives.")


LinkClass = Annotated[Text | Annotated[LinkClassSection, Tag("other")], TextOr]


class RegionLinkSection(LinkClassSection):
    """Links between two regions."""

    from_: str = Field(alias="from", description="Region.")
    to: str = Field(description="Region.")
    both: bool = Field(True, description="Whether it holds for both directions.")


Endpoints = Annotated[Text | Annotated[list[str], Tag("other")], TextOr]


class LinkSection(LinkClassSection):
    """Exceptions for single links; a later entry wins over an earlier one."""

    from_: Endpoints = Field(alias="from", description="Node ids, patterns such as `l4-*`, or `coordinator`.")
    to: Endpoints = Field(description="Node ids, patterns such as `l4-*`, or `coordinator`.")
    both: bool = Field(True, description="Whether it holds for both directions.")


class SpreadWidthSection(Section):
    """Half widths of a uniform distribution around the link class."""

    bandwidth: Annotated[Bandwidth | None, Field(description="Half width; without: no spread.")] = None
    latency: Annotated[Latency | None, Field(description="Half width; without: no spread.")] = None


class SpreadSection(Section):
    """Every link gets its own bandwidth and latency, drawn around its class as in the paper's artifact."""

    seed: Seed = Field(0, description="Seed of the draw, apart from the experiment's.")
    intra_region: SpreadWidthSection = Field(SpreadWidthSection(), description="Spread inside a region.")
    inter_region: SpreadWidthSection = Field(SpreadWidthSection(), description="Spread between regions.")


class NetworkSection(Section):
    """Every node reaches every other. `links` wins over `spread`, `spread` is around `regions` or the class."""

    intra_region: LinkClass = Field(description="Links inside a region: a mapping, or the name of a link profile.")
    inter_region: LinkClass | None = Field(None, description="Links between regions; needed if there are several.")
    regions: list[RegionLinkSection] = Field([], description="Exceptions for pairs of regions.")
    links: Annotated[Text | Annotated[list[LinkSection], Tag("other")], TextOr] = Field(
        [],
        description="Exceptions for single links, or the path of a CSV file with the columns from, to, bandwidth_mbps "
        "(or _bps, _kbps, _gbps: bit/s), latency_ms (or _ns, _us, _s) and, if wanted, both (true or false).",
    )
    sharing: Literal["fifo", "shared"] = Field(
        "fifo",
        description="Messages on a link pass one after the other (`fifo`: a prompt holds up the decode steps behind "
        "it), or share its bandwidth evenly (`shared`, as TCP flows do).",
    )
    spread: SpreadSection | None = Field(None, description="Random differences between links.")
    scale: LinkScaleSection | None = Field(None, description="Factors on all links, after all else.")


class ClusterSection(FileSection):
    """The machines and the network between them."""

    coordinator: CoordinatorSection = Field(CoordinatorSection(), description="Where requests enter and tokens leave.")
    nodes: list[NodesSection] = Field(min_length=1, description="The nodes, in the order that breaks ties.")
    down: list[str] | None = Field(
        None, description="Nodes out of service: ids, patterns such as `l4-*`, `gpu:t4`, or `region:eu`."
    )
    network: NetworkSection = Field(description="Links.")


# --- systems ---------------------------------------------------------------------------------------------------------


DEFAULT_ROUTING = "flow_weighted"
DEFAULT_BATCHING = "continuous"


class PlacementChoice(Choice):
    """Which layers lie on which node."""

    key: ClassVar[str] = "strategy"
    strategy: str = Field(description="Placement strategy: a name, or your own class as `package.module:Class`.")


class RoutingChoice(Choice):
    """Which nodes a request visits."""

    key: ClassVar[str] = "policy"
    policy: str = Field(description="Routing policy: a name, or your own class as `package.module:Class`.")


class BatchingChoice(Choice):
    """What a node computes together."""

    key: ClassVar[str] = "policy"
    policy: str = Field(description="Batching policy: a name, or your own class as `package.module:Class`.")


class KvSection(Section):
    """KV memory rules at admission, the same for every routing policy."""

    max_reserved_share: Share = Field(
        0.9, description="Largest share of a node's KV blocks that may be reserved for admitted requests."
    )
    expected_output_tokens: Tokens | None = Field(
        None, description="Output length assumed at admission [tokens]; without: the mean of the workload."
    )


class NodeOverrideSection(Section):
    """Limits of some nodes, for one system only."""

    match: str = Field(description="Node id or pattern such as `a100-*`.")
    kv_blocks: Count | None = Field(None, description="KV blocks pinned, instead of what memory allows.")
    kv_tokens: Count | None = Field(None, description="The same in tokens, rounded down to whole blocks.")
    max_requests: Count | None = Field(None, description="Most resident requests.")


class SystemSection(Section):
    """One of the systems that are compared."""

    name: Name | None = Field(None, description="Name in tables and files; without: that of the placement strategy.")
    placement: PlacementChoice = Field(description="Placement strategy, or a mapping of `strategy` and its options.")
    routing: RoutingChoice = Field(
        RoutingChoice(policy=DEFAULT_ROUTING), description="Routing policy, or a mapping of `policy` and its options."
    )
    batching: BatchingChoice = Field(
        BatchingChoice(policy=DEFAULT_BATCHING),
        description="Batching policy, or a mapping of `policy` and its options.",
    )
    kv: KvSection = Field(KvSection(), description="Replaces what it gives of the experiment's `kv`.")
    nodes: list[NodeOverrideSection] = Field([], description="Limits of some nodes, for this system only.")
    arrivals: ArrivalsSection | None = Field(None, description="Replaces the arrivals of the workload.")


# --- the rest --------------------------------------------------------------------------------------------------------


class SloSection(Section):
    """Service-level objective: a request is good if it meets all that is given."""

    ttft: Duration | None = Field(None, description="Longest time to first token.")
    tpot: Duration | None = Field(None, description="Longest time per output token after the first.")
    e2el: Duration | None = Field(None, description="Longest end-to-end latency.")


class EngineSection(Section):
    """What the serving engine on each node allows itself."""

    name: str = Field(
        "ideal", description="Engine profile: a name of `helixsim profile list engines`, or the path of a YAML file."
    )
    memory_fraction: Share | None = Field(
        None, description="Share of usable GPU memory for weights and KV cache; without: the engine's."
    )
    block_tokens: Annotated[int, Field(ge=1, le=65536)] | None = Field(
        None, description="Tokens per KV block; without: the engine's."
    )
    max_weight_fraction: Share = Field(0.5, description="Share of memory planners fill with weights at most.")
    max_prefill_tokens: Count | None = Field(None, description="Prompt tokens per batch; without: the profile's.")
    max_prefill_requests: Count | None = Field(None, description="Prompts per batch; without: the profile's.")
    max_decode_seqs: Count | None = Field(None, description="Decoding sequences per batch; without: the profile's.")
    transfers: Literal["batch", "request"] | None = Field(
        None,
        description="What travels as one message: all requests of a batch that go to the same node (engines with "
        "pipeline parallelism), or each request by itself (Helix's prototype); without: the engine's.",
    )
    mixed_batches: Literal["separate", "shared"] | None = Field(
        None,
        description="Whether prompts and decode steps of one batch read the weights one after the other or together; "
        "without: the engine's.",
    )
    gather: Latency | None = Field(
        None, description="Host time before a batch is formed; what arrives meanwhile joins it; without: the engine's."
    )
    batch_overhead: Latency | None = Field(None, description="Host time per batch; without: the engine's.")
    sequence_overhead: Latency | None = Field(
        None, description="Host time per sequence of a batch; without: the engine's."
    )
    layer_launch: Latency | None = Field(
        None, description="Host time to launch one layer, which bounds it from below; without: the engine's."
    )
    message_overhead: Latency | None = Field(
        None, description="Time to hand over one message, on top of the link's latency; without: the engine's."
    )
    min_free_share: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        None,
        description="Share of KV blocks that must stay free when a request is admitted (vLLM: watermark); without: the "
        "engine's.",
    )
    timings: str | None = Field(None, description="CSV of measured times per layer, instead of the profiles.")
    limits: str | None = Field(None, description="CSV of measured KV and batch limits, instead of the profiles.")


class CapacitySection(Section):
    """How planners estimate the tokens/s of a node."""

    model: Literal["paper", "kv_limited"] = Field(
        "paper",
        description="The estimate: `paper` is that of the paper's artifact, with a fixed share of KV memory in use and "
        "no network; `kv_limited` fills KV memory to `kv.max_reserved_share` and divides by the round-trip time under "
        "that load.",
    )
    kv_occupancy: Share = Field(0.3, description="Share of KV memory `paper` assumes in use.")
    prompt_tokens: Tokens | None = Field(
        None, description="Mean prompt length assumed [tokens]; without: that of the workload."
    )
    output_tokens: Tokens | None = Field(
        None, description="Mean output length assumed [tokens]; without: that of the workload."
    )


class ReportSection(Section):
    """What a run writes down."""

    sample: Duration | None = Field(None, description="Interval of the time series; without: chosen from the run.")


class ExperimentSection(Section):
    """An experiment: a model on a cluster under a workload, served by several systems."""

    model_config = ConfigDict(title="helixsim experiment", protected_namespaces=())

    schema_: Literal[1] = Field(alias="schema", description="Version of this format.")
    name: Name | None = Field(None, description="Name of the experiment; without: that of the file.")
    seed: Seed = Field(0, description="Seed of every random stream.")
    model: str = Field(
        description="A name of `helixsim profile list models`, or the path of a Hugging Face config.json or of the "
        "folder of a downloaded model."
    )
    precision: str | None = Field(
        None,
        description="Number format of the weights: fp16, bf16, fp8, int8, int4; without: that of the checkpoint if the "
        "model is a config.json that says so, else fp16.",
    )
    kv_precision: str | None = Field(None, description="Number format of the KV cache; without: the profile's default.")
    max_context_tokens: Count | None = Field(
        None, description="Longest prompt plus output [tokens], as vLLM's max_model_len; without: the model's."
    )
    cluster: ClusterSection = Field(description="The cluster, or the path of a YAML file that holds it.")
    workload: WorkloadSection = Field(WorkloadSection(), description="What is asked of it, and when it is measured.")
    systems: list[SystemSection] = Field(min_length=1, description="What is compared.")
    whatif: list[WhatifSection] | None = Field(
        None, description="Changes of the experiment whose systems run beside the unchanged ones."
    )
    baseline: str | None = Field(
        None, description="The system others are compared with; without: `swarm` if there is one, else the last."
    )
    slo: SloSection = Field(SloSection(), description="Service-level objective.")
    slo_targets: dict[Name, SloSection] | None = Field(
        None, description="Further objectives by name, each searched for by `capacity` and `fleet`."
    )
    engine: EngineSection = Field(EngineSection(), description="What the serving engine on each node allows itself.")
    kv: KvSection = Field(KvSection(), description="KV memory rules at admission.")
    capacity: CapacitySection = Field(CapacitySection(), description="How planners estimate node capacities.")
    planning: PlanningSection = Field(
        PlanningSection(), description="What planners suppose instead of the load that is simulated."
    )
    report: ReportSection = Field(ReportSection(), description="What a run writes down.")
