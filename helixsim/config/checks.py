"""Checks across several keys. Each yields problems, or raises if no configuration can be valid."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from helixsim.config.engine_schema import EngineSection
from helixsim.config.schema import ExperimentSection
from helixsim.config.source import Source
from helixsim.domain.cluster import Cluster, Deployment, Node
from helixsim.domain.engine import IDEAL, EngineSpec
from helixsim.domain.model import ModelSpec
from helixsim.domain.request import FeedMode
from helixsim.errors import ConfigError, InfeasibleError, Problem, did_you_mean, unknown_name
from helixsim.hardware.profile_options import ProfileOptions
from helixsim.units import format_bytes
from helixsim.workload.arrivals import PROCESSES, process_of
from helixsim.workload.feed import longest_prompt
from helixsim.workload.spec import ArrivalsSpec, TraceCourse, WorkloadSpec, WorkloadStats
from helixsim.yamlio import KeyPath


def check_names_unique(names: Sequence[str], source: Source) -> Iterator[Problem]:
    """Require unique names of systems, as they name files."""
    for number, name in enumerate(names):
        if name in names[:number]:
            path = ("systems", number, "name")
            message = f"the name {name!r} is already used by systems.{names.index(name)}; choose another name"
            yield source.problem(path, message)


def check_baseline(section: ExperimentSection, names: Sequence[str], source: Source) -> Iterator[Problem]:
    """Require the baseline to be one of the systems."""
    if section.baseline is not None and section.baseline not in names:
        yield source.problem(("baseline",), unknown_name("system", section.baseline, names))


def check_sharing(section: ExperimentSection, transfers: str, source: Source) -> Iterator[Problem]:
    """Refuse fair sharing with messages per request, which the engine spaces as on an exclusive link."""
    if section.cluster.network.sharing == "shared" and transfers == "request":
        message = "shared needs engine.transfers: batch (got request: one message per request, in sequence)"
        yield source.problem(("cluster", "network", "sharing"), message)


_OF_SCHEDULERS = {
    "enable_chunked_prefill": "chunks_prompts",
    "scheduler_recv_interval": "scheduler_recv_interval",
    "scheduling_policy": "scheduling_policy",
    "enable_prefix_caching": "caches_prefixes",
}
"""Keys of ``engine`` that only engines with a scheduler of their own have -> fields of ``EngineSpec``."""


def check_engine(section: ExperimentSection, engine: EngineSpec, source: Source) -> Iterator[Problem]:
    """Check the keys of the engine against each other."""
    own = section.engine
    if not engine.loops_inside:
        for key, field in _OF_SCHEDULERS.items():
            if getattr(engine, field) != getattr(IDEAL, field):
                stated = getattr(own, key) is not None
                message = f"{key} needs an engine with return: engine (here {engine.name} with return: coordinator)"
                yield source.problem(("engine", key if stated else "name"), message)
        if own.cuda_graph_sizes:
            message = f"padding needs an engine with return: engine (here {engine.name} with return: coordinator)"
            yield source.problem(("engine", "cuda_graph_sizes"), message)
        if engine.speculation is not None:
            message = f"needs an engine with return: engine (here {engine.name} with return: coordinator)"
            yield source.problem(("engine", "speculative"), message)
    if engine.long_prefill_token_threshold and not engine.chunks_prompts:
        message = f"{engine.long_prefill_token_threshold} has no effect without enable_chunked_prefill: true"
        yield source.problem(("engine", "long_prefill_token_threshold"), message)
    if engine.kv_tiers and not (engine.loops_inside and engine.caches_prefixes and engine.chunks_prompts):
        needed = "an engine with return: engine, enable_prefix_caching: true and enable_chunked_prefill: true"
        yield source.problem(("engine", "kv_offloading"), f"needs {needed} (here {engine.name})")
    if own.capacity_policy is not None and own.admission is not None:
        yield source.problem(("engine", "capacity_policy"), "give admission or capacity_policy, not both")
    tokens, seqs = own.max_num_batched_tokens, own.max_num_seqs
    if engine.loops_inside and tokens is not None and seqs is not None and tokens < seqs:
        message = f"{tokens} tokens per step are less than one for each of max_num_seqs {seqs}"
        yield source.problem(("engine", "max_num_batched_tokens"), message)
    if engine.admission == "max_output" and section.workload.limits.max_output_tokens is None:
        known = section.kv.expected_output_tokens
        if any((system.kv.expected_output_tokens or known) is None for system in section.systems):
            stated_key = next(
                (key for key in ("admission", "capacity_policy") if getattr(own, key) is not None), "name"
            )
            message = (
                "an engine that reserves the longest output needs workload.limits.max_output_tokens, or admission: "
                "prompt (capacity_policy: max_utilization)"
            )
            yield source.problem(("engine", stated_key), message)


def check_whole_prompts(
    workload: WorkloadSpec, seed: int, fleets: Sequence[Deployment], engine: EngineSpec, source: Source
) -> Iterator[Problem]:
    """Refuse prompts that exceed the token budget of an engine that does not cut them, where they are computed."""
    if not engine.loops_inside or engine.chunks_prompts:
        return
    budget, kind = min(
        (limits.max_prefill_tokens, profile.kind)
        for fleet in fleets
        for node, profile in zip(fleet.cluster.nodes, fleet.profiles, strict=True)
        if node.role != "decode"
        for limits in profile.limits
    )
    limit = workload.limits.max_prompt_tokens
    if limit is not None and workload.scale.lengths(limit, 1)[0] <= budget:
        return
    longest = longest_prompt(workload, seed)
    if longest > budget:
        message = (
            f"the longest prompt has {longest} tokens, and {engine.name} computes whole prompts of up to {budget} "
            f"tokens on {kind}; set enable_chunked_prefill: true, or max_num_batched_tokens: {longest} or more"
        )
        yield source.problem(("engine", "max_num_batched_tokens"), message)


def check_parallelism(
    section: EngineSection,
    options: ProfileOptions,
    engine: EngineSpec,
    deployed: tuple[ModelSpec, Cluster],
    at: KeyPath,
    source: Source,
) -> Iterator[Problem]:
    """Check data-parallel attention and expert parallelism against the engine, the model and the nodes.

    ``at``: mapping that states them.
    """
    (model, cluster), ranks, by_expert = deployed, options.data_parallel_size, options.enable_expert_parallel
    keys = [key for key, used in (("data_parallel_size", ranks > 1), ("enable_expert_parallel", by_expert)) if used]
    if engine.attention_balance is not None and ranks == 1:
        message = "enable_balance: true needs several attention ranks: data_parallel_size"
        yield source.problem(("engine", "attention_dp_config"), message)
    if engine.attention_balance is not None and cluster.is_disaggregated:
        message = "enable_balance: true needs nodes that both prefill and decode, without role"
        yield source.problem(("engine", "attention_dp_config"), message)
    if not keys:
        return
    if not engine.loops_inside:
        for key in keys:
            message = f"{key} needs an engine with return: engine (here {engine.name} with return: coordinator)"
            yield source.problem((*at, key), message)
    if section.timings not in ("auto", "analytic", "operators") or section.limits is not None:
        key = "limits" if section.limits is not None else "timings"
        message = f"{' and '.join(keys)}: no file of {key} knows such nodes; leave {key} out"
        yield source.problem(("engine", key), message)
    kinds = {node.node_type: node for node in cluster.nodes}
    for kind, node in kinds.items():
        if node.gpus % ranks:
            message = f"{ranks} attention ranks do not divide the {node.gpus} GPUs of {kind}"
            yield source.problem((*at, "data_parallel_size"), message)
    counts = [layer.experts.count for layer in model.layers if layer.experts]
    if by_expert and not counts:
        yield source.problem((*at, "enable_expert_parallel"), f"{model.name} has no experts")
    elif by_expert:
        for kind, node in kinds.items():
            if min(counts) < node.gpus:
                message = f"{model.name} has {min(counts)} experts, too few for the {node.gpus} GPUs of {kind}"
                yield source.problem((*at, "enable_expert_parallel"), message)


def check_classes(section: ExperimentSection, stats: WorkloadStats, source: Source) -> Iterator[Problem]:
    """Refuse objectives and classes of requests that the load does not have."""
    named: list[tuple[KeyPath, Iterable[str]]] = [
        (("workload", "classes"), section.workload.classes or ()),
        (("slo", "classes"), section.slo.classes or ()),
    ]
    for target, slo in (section.slo_targets or {}).items():
        named.append((("slo_targets", target, "classes"), slo.classes or ()))
    for at, names in named:
        for name in names:
            if name not in stats.classes:
                known = f"the load has {', '.join(stats.classes)}" if stats.classes else "requests have no class"
                message = f"no request has the class {name!r}{did_you_mean(name, stats.classes)} ({known})"
                yield source.problem((*at, name), message)


def check_arrivals(spec: ArrivalsSpec, path: KeyPath, workload: WorkloadSpec, source: Source) -> Iterator[Problem]:
    """Check the options of the arrival process, and that the load ends."""
    try:
        process = process_of(spec)
    except ConfigError as error:
        for problem in error.problems:
            yield source.problem((*path, problem.path.rpartition(".")[2]), problem.message)
        return
    if spec.process == "trace" and workload.trace is None:
        yield source.problem((*path, "process"), "trace arrivals need a trace (workload.trace)")
    if isinstance(spec.over_time, TraceCourse) and workload.trace is None:
        yield source.problem((*path, "over_time", "trace"), "needs a trace (workload.trace)")
    if workload.trace is not None and workload.trace.stretch_s is not None:
        at = ("workload", "trace", "stretch")
        if spec.process != "trace":
            yield source.problem(at, f"{spec.process} arrivals do not use it (process: trace does)")
        elif spec.rate_rps is not None:
            yield source.problem(at, "arrivals.rate states the times too: give one of them")
    if workload.sessions is not None and process.mode is not FeedMode.OPEN:
        message = f"{spec.process} has no arrival times before it runs, which workload.sessions need"
        yield source.problem((*path, "process"), message)
    is_finite_loop = process.mode is FeedMode.CLOSED_LOOP and spec.num_requests is not None
    if workload.window.duration_ns is not None:
        if is_finite_loop:
            message = "closed_loop ends with its last request: give either num_requests or workload.duration"
            yield source.problem((*path, "num_requests"), message)
        return
    if process.mode is FeedMode.CLOSED_LOOP:
        if not is_finite_loop:
            message = "closed_loop arrivals never end: give workload.duration or arrivals.num_requests"
            yield source.problem(("workload",), message)
    elif process.mode is not FeedMode.OPEN:
        yield source.problem(("workload",), f"required key duration is missing: {spec.process} arrivals never end")
    elif spec.process != "trace" and spec.num_requests is None:
        message = f"{spec.process} arrivals never end: give workload.duration or arrivals.num_requests"
        yield source.problem(("workload",), message)


def check_streams(
    workload: WorkloadSpec, own_arrivals: Sequence[ArrivalsSpec | None], source: Source
) -> Iterator[Problem]:
    """Check the arrivals of classes, and that no system replaces them."""
    streams = [one for one in workload.classes if one.arrivals is not None]
    for one in streams:
        assert one.arrivals is not None
        yield from check_arrivals(one.arrivals, ("workload", "classes", one.name, "arrivals"), workload, source)
    for number, arrivals in enumerate(own_arrivals):
        if arrivals is not None and streams:
            message = "not allowed where classes have arrivals of their own"
            yield source.problem(("systems", number, "arrivals"), message)


def check_planning(section: ExperimentSection, workload: WorkloadSpec | None, source: Source) -> Iterator[Problem]:
    """Refuse a planning rate for arrivals without a rate."""
    if workload is None or section.planning.rate is None:
        return
    process = workload.arrivals.process
    if process in PROCESSES and PROCESSES[process].mode is not FeedMode.OPEN:
        yield source.problem(("planning", "rate"), f"{process} arrivals have no rate")


def check_context(workload: WorkloadSpec, seed: int, fleet: Deployment, source: Source) -> Iterator[Problem]:
    """Refuse prompts longer than the context of the model, unless ``limits`` excludes them."""
    most = fleet.model.max_context_tokens
    limit = workload.limits.max_prompt_tokens
    if limit is not None and workload.scale.lengths(limit, 1)[0] <= most:
        return
    longest = longest_prompt(workload, seed)
    if longest > most:
        message = (
            f"the longest prompt has {longest} tokens, the context of {fleet.model.name} has {most}; "
            f"exclude such requests with workload.limits.max_prompt_tokens: {most}"
        )
        where = ("trace", "path") if workload.lengths is None else ("lengths",)
        yield source.problem(("workload", *where), message)


def check_tensor_parallel(
    section: ExperimentSection, nodes: Sequence[Node], fleets: Sequence[Deployment], source: Source
) -> Iterator[Problem]:
    """Require the attention heads to be divisible by the GPUs that share them, those of an attention rank.

    ``nodes``: those of ``cluster.nodes``, undivided.
    """
    entries = section.cluster.nodes
    owners = [number for number, entry in enumerate(entries) for _ in range(entry.count or len(entry.ids or [0]))]
    entry_of = {node.id: number for node, number in zip(nodes, owners, strict=True)}
    joined = {
        (entry_of[node.machine or node.id], node.gpus // profile.compute.ranks)
        for fleet in fleets
        for node, profile in zip(fleet.cluster.nodes, fleet.profiles, strict=True)
    }
    for number, gpus in sorted(joined):
        model = fleets[0].model
        heads = model.num_attention_heads
        if heads % gpus:
            allowed = ", ".join(str(count) for count in range(1, heads + 1) if heads % count == 0)
            message = (
                f"{gpus} GPUs cannot share the {heads} attention heads of {model.name} (allowed: {allowed}); "
                "tp divides a node"
            )
            yield source.problem(("cluster", "nodes", number, "gpus" if entries[number].tp is None else "tp"), message)


def check_options(options: Mapping[KeyPath, Any], fleet: Deployment, source: Source) -> Iterator[Problem]:
    """Check options against the cluster: ``Options.faults(fleet)`` yields (option, message)."""
    for path, chosen in options.items():
        faults = getattr(chosen, "faults", None)
        if faults is not None:
            for option, message in faults(fleet):
                yield source.problem((*path, option), message)


def check_fleet_holds_model(fleet: Deployment) -> None:
    """Require that all nodes together can hold every layer.

    Raises
    ------
    InfeasibleError
        If they cannot.
    """
    model = fleet.model
    layers = sum(len(profile.kv_blocks) for profile in fleet.profiles)
    if layers >= model.num_layers:
        return
    most = {profile.kind: len(profile.kv_blocks) for profile in fleet.profiles}
    per_kind = ", ".join(f"{kind}: {count}" for kind, count in most.items())
    missing = model.num_layers - layers
    raise InfeasibleError(
        f"{model.name} does not fit: it has {model.num_layers} layers of {format_bytes(model.weight_bytes_per_layer)} "
        f"in {model.precision}, all {len(fleet.profiles)} nodes together hold {layers} "
        f"(layers per node with room for KV: {per_kind}): {missing} layers ({layers}-{model.num_layers - 1}) find no "
        f"place, {format_bytes(missing * model.weight_bytes_per_layer)} of weights"
    )
