"""The model servers that a placement consists of, with the options that vLLM needs to serve as simulated."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from helixsim.config.experiment import ResolvedExperiment, SystemSpec
from helixsim.deploy.options import common_options, own_options
from helixsim.deploy.roles import leg_sections, notes_of_roles, with_leg
from helixsim.domain.chains import chains
from helixsim.domain.cluster import COORDINATOR, Deployment
from helixsim.domain.flowplan import COORDINATOR_CLASS, FlowPlan
from helixsim.domain.placement import Placement, Role
from helixsim.errors import ConfigError
from helixsim.hardware import catalog
from helixsim.hardware.mig import split_instance

ENGINE: Final = "vllm-1"
"""The engine whose options the targets state."""

PORT: Final = 8000
"""Where the HTTP server of a model server listens (vLLM's default)."""

MASTER_PORT: Final = 29501
"""Where the processes of a pipeline over several machines meet (vLLM's ``--master-port``)."""

_INSTANCE: Final = "nvidia.com/mig-"
_RESOURCES = {"mi": "amd.com/gpu", "gaudi": "habana.ai/gaudi"}
_VISIBLE = {
    "nvidia.com/gpu": "CUDA_VISIBLE_DEVICES",
    "amd.com/gpu": "HIP_VISIBLE_DEVICES",
    "habana.ai/gaudi": "HABANA_VISIBLE_MODULES",
}
_NCCL = (
    "NCCL connects stages on MIG instances from 2.32 on, those of one GPU with NCCL_MULTI_RANK_GPU_ENABLE=1 "
    "(https://github.com/NVIDIA/nccl/issues/1716)."
)
_APPLE = ("m1-", "m2-", "m3-", "m4-", "m5-")


@dataclass(frozen=True, slots=True)
class Stage:
    """One node of a model server: it holds ``layers`` layers on ``gpus`` GPUs.

    Parameters
    ----------
    resource
        Name under which Kubernetes counts its GPUs.
    machine
        Where it runs: the node itself, or the machine of which it is a part.
    parts
        Nodes into which the machine is divided.
    devices
        Numbers of its GPUs on the machine; empty: all of them.
    """

    node: str
    node_type: str
    gpus: int
    layers: int
    resource: str
    machine: str
    parts: int = 1
    devices: tuple[int, ...] = ()

    @property
    def is_instance(self) -> bool:
        """Whether it runs on an instance of a GPU that MIG divides, of which a machine has several."""
        return self.resource.startswith(_INSTANCE)


@dataclass(frozen=True, slots=True)
class Host:
    """A machine of a model server with the stages that run there, in one process group."""

    machine: str
    stages: tuple[Stage, ...]

    @property
    def gpus(self) -> int:
        """Number of GPUs in use."""
        return sum(stage.gpus for stage in self.stages)

    @property
    def is_instance(self) -> bool:
        """Whether it stands for an instance of a GPU, and not for a machine."""
        return self.stages[0].is_instance

    @property
    def visible_devices(self) -> dict[str, str]:
        """Environment variable that chooses the GPUs, in the order of the stages; empty: all of the machine."""
        devices = ",".join(str(device) for stage in self.stages for device in stage.devices)
        return {_VISIBLE[self.stages[0].resource]: devices} if devices else {}

    @property
    def about(self) -> str:
        """Types, layers and GPUs of its stages, for comments."""
        return ", ".join(
            f"{stage.node_type}, {stage.layers} layers"
            + (f" on GPU {', '.join(map(str, stage.devices))}" if stage.devices else "")
            for stage in self.stages
        )


@dataclass(frozen=True, slots=True)
class Server:
    """A model server: one replica of the model on the machines of a pipeline.

    Parameters
    ----------
    stages
        First to last.
    options
        vLLM's options without leading dashes; an empty value is a switch.
    share
        Part of the requests that the plan sends here, of those of its role, 0..1.
    """

    name: str
    stages: tuple[Stage, ...]
    options: Mapping[str, str]
    share: float
    role: Role = "both"

    @property
    def hosts(self) -> tuple[Host, ...]:
        """Its machines, the one of the first stage first."""
        found: dict[str, list[Stage]] = {}
        for stage in self.stages:
            found.setdefault(stage.machine, []).append(stage)
        return tuple(Host(machine, tuple(stages)) for machine, stages in found.items())

    @property
    def partition(self) -> str:
        """Layers of each stage, for ``VLLM_PP_LAYER_PARTITION``."""
        return ",".join(str(stage.layers) for stage in self.stages)

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables of its processes."""
        return {"VLLM_PP_LAYER_PARTITION": self.partition} if len(self.stages) > 1 else {}

    def arguments(self) -> list[str]:
        """Return the options as command-line arguments, ``--name=value`` or ``--name``."""
        return [f"--{name}={value}" if value else f"--{name}" for name, value in self.options.items()]

    def joining(self, rank: int, master: str, port: int = MASTER_PORT) -> list[str]:
        """Return the arguments with which host ``rank`` joins a pipeline; empty for one machine."""
        if len(self.hosts) == 1:
            return []
        return [
            f"--nnodes={len(self.hosts)}",
            f"--node-rank={rank}",
            f"--master-addr={master}",
            f"--master-port={port}",
            *(["--headless"] if rank else []),
        ]


@dataclass(frozen=True, slots=True)
class Servers:
    """All model servers of a placement.

    ``name`` is that of the system as Kubernetes accepts it; ``unused`` are nodes without layers; ``notes`` say what
    differs from the simulation or is left to the user. ``most_local_tokens``: see ``engine.inputs.Legs``.
    """

    name: str
    title: str
    model: str
    servers: tuple[Server, ...]
    unused: tuple[str, ...]
    notes: tuple[str, ...]
    most_local_tokens: int | None = None

    @property
    def have_roles(self) -> bool:
        """Whether some prefill or decode alone."""
        return any(server.role != "both" for server in self.servers)

    @property
    def comments(self) -> list[str]:
        """Title, shares and notes as lines for the head of a file."""
        shares = ", ".join(f"{server.name} {server.share:.1%}" for server in self.servers)
        of_role = " (of those of its role)" if self.have_roles else ""
        lines = [self.title, f"Requests per server as planned{of_role}: {shares}."]
        if self.unused:
            lines.append(f"Unused nodes: {', '.join(self.unused)}.")
        return [*lines, *self.notes]

    @property
    def instances(self) -> tuple[str, ...]:
        """Types of the nodes in use that are instances of GPUs."""
        stages = [stage for server in self.servers for stage in server.stages]
        return tuple(dict.fromkeys(stage.node_type for stage in stages if stage.is_instance))


def servers_of(
    experiment: ResolvedExperiment, system: SystemSpec, placement: Placement, plan: FlowPlan, model_id: str | None
) -> Servers:
    """Return the model servers of a placement.

    Parameters
    ----------
    model_id
        Hugging Face id or folder that servers load; None: the id that the catalogue has for the model.

    Raises
    ------
    ConfigError
        If vLLM cannot serve the placement, another engine was simulated, or no id of the model is known.
    """
    engine: Mapping[str, Any] = experiment.document["engine"]
    if engine["name"] != ENGINE:
        raise ConfigError(
            f"--export: the experiment simulates the engine {engine['name']!r}, the targets start vLLM V1: "
            f"set engine.name to {ENGINE!r} and place again"
        )
    apart = system.disaggregation
    if system.is_disaggregated and (apart.prefill_share != 1 or apart.transfer.bits is not None):
        key = "prefill_share" if apart.prefill_share != 1 else "transfer_bits"
        raise ConfigError(
            f"--export: {system.name}: disaggregation.{key}: vLLM's KV connectors send whole prompts as they are kept; "
            "leave it out and place again"
        )
    fleet = system.fleet
    pipelines = _pipelines(system.name, plan, all_edges=system.routing != "flow_weighted")
    roles = [fleet.cluster.node(chain[0]).role for chain, _ in pipelines]
    served: Counter[Role] = Counter()
    for role, (_, flow) in zip(roles, pipelines, strict=True):
        served[role] += flow  # type: ignore[assignment]
    legs = leg_sections(experiment, system)
    common, notes = common_options(engine, fleet)
    if legs:
        notes += notes_of_roles(engine)
    servers = []
    for number, (role, (chain, flow)) in enumerate(zip(roles, pipelines, strict=True)):
        name = f"{dns_name(system.name)}-{number}" if role == "both" else f"{dns_name(system.name)}-{role}-{number}"
        stages = tuple(_stage(fleet, placement, node) for node in chain)
        options, more = own_options(fleet, placement, chain, engine)
        options |= with_leg(common, legs[role]) if legs else common
        servers.append(Server(name, stages, options, flow / served[role], role))
        _require_even_hosts(servers[-1])
        if len(stages) > 1 and any(stage.is_instance for stage in stages):
            more.append(_NCCL)
        notes += [f"{name}: {note}" for note in more]
    used = {stage.node for server in servers for stage in server.stages}
    return Servers(
        dns_name(system.name),
        f"{experiment.name}: system {system.name}, placement {placement.strategy}, routing {system.routing}.",
        _model_id(experiment, model_id),
        tuple(servers),
        tuple(node.id for node in fleet.cluster.nodes if node.id not in used),
        tuple(notes),
        system.disaggregation.most_local_tokens if system.is_disaggregated else None,
    )


def require_equal_machines(servers: Servers, target: str) -> None:
    """Raise ``ConfigError`` for a pipeline of unequal machines, whose stages the target would assign in any order."""
    for server in servers.servers:
        kinds = Counter(stage.node_type for stage in server.stages)
        if len(kinds) > 1:
            raise ConfigError(
                f"--export {target}: {server.name} is a pipeline of {', '.join(kinds)}: {target} does not assign the "
                f"stages of a pipeline to given machines, so all must be of one type; "
                f"'--export vllm' and '--export kubernetes' do"
            )


def _require_even_hosts(server: Server) -> None:
    """Raise ``ConfigError`` for a pipeline whose stages vLLM would assign to other machines than those placed."""
    hosts = server.hosts
    in_order = [stage for host in hosts for stage in host.stages] == list(server.stages)
    if not in_order or len({len(host.stages) for host in hosts}) > 1:
        told = ", ".join(f"{host.machine} {len(host.stages)}" for host in hosts)
        raise ConfigError(
            f"--export: {server.name} has stages on the parts of several machines ({told}): vLLM gives each machine of "
            "a pipeline the same number of consecutive stages"
        )


def dns_name(text: str) -> str:
    """Return a text as a name that Kubernetes accepts: lower-case letters, digits and dashes, a letter first."""
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40].rstrip("-")
    return name if name[:1].isalpha() else f"system-{name}".rstrip("-")


def _pipelines(system: str, plan: FlowPlan, *, all_edges: bool) -> list[tuple[list[str], float]]:
    """Return the nodes of each pipeline, first to last, with its flow [tokens/s].

    Raises
    ------
    ConfigError
        If requests may take several ways from a node, which no engine serves.
    """
    leaving = [
        [one for one in plan.departures(number) if one.flow_tokens_per_s > 0 or all_edges]
        for number in range(len(plan.classes))
    ]

    def following(node: str) -> list[str]:
        return [one.dst for one in leaving[plan.class_of[node]] if one.dst != COORDINATOR]

    found = chains((one.dst for one in leaving[COORDINATOR_CLASS]), following)
    if found is None:
        arriving = Counter(node for src in plan.class_of for node in following(src))
        several = [src for src in plan.class_of if src != COORDINATOR and len(following(src)) > 1]
        branching = sorted({*several, *(node for node, count in arriving.items() if count > 1)})
        raise ConfigError(
            f"--export: {system}: requests take several ways through {', '.join(branching[:5])}"
            f"{', ...' if len(branching) > 5 else ''}; the engines of today serve whole pipelines: "
            "place with the strategy 'replicas' or 'separate'"
        )
    flows = {one.dst: one.flow_tokens_per_s for one in leaving[COORDINATOR_CLASS]}
    return [(chain, flows[chain[0]]) for chain in found if flows[chain[0]] > 0]


def _stage(fleet: Deployment, placement: Placement, node_id: str) -> Stage:
    node = fleet.cluster.node(node_id)
    if node.gpu.startswith(_APPLE):
        raise ConfigError(f"--export: vLLM does not serve on the GPU of node {node_id!r}, {node.gpu}")
    found = [resource for prefix, resource in _RESOURCES.items() if node.gpu.startswith(prefix)]
    _, instance = split_instance(node.gpu)
    resource = found[0] if found else f"{_INSTANCE}{instance}" if instance else "nvidia.com/gpu"
    parts = [one for one in fleet.cluster.nodes if node.machine is not None and one.machine == node.machine]
    devices = tuple(range(node.first_gpu, node.first_gpu + node.gpus)) if parts else ()
    layers = placement.ranges[node_id].layers
    machine = node.machine or node_id
    return Stage(node_id, node.node_type, node.gpus, layers, resource, machine, max(1, len(parts)), devices)


def _model_id(experiment: ResolvedExperiment, given: str | None) -> str:
    if given is not None:
        return given
    name, known = experiment.fleet.model.name, catalog.hugging_face_ids()
    written = experiment.document["model"]
    if known.get(written) == name:
        return str(written)
    ids = sorted((identity for identity, model in known.items() if model == name), key=len)  # base models come first
    if not ids:
        raise ConfigError(f"--export: no Hugging Face id is known for the model {name!r}: state it by --model-id ID")
    return ids[0]
