"""Checks across several keys. Each yields problems, or raises if no configuration can be valid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from helixsim.config.schema import ExperimentSection
from helixsim.config.source import Source
from helixsim.domain.cluster import Deployment
from helixsim.domain.request import FeedMode
from helixsim.errors import ConfigError, InfeasibleError, Problem, unknown_name
from helixsim.units import format_bytes
from helixsim.workload.arrivals import PROCESSES, process_of
from helixsim.workload.feed import longest_prompt
from helixsim.workload.spec import ArrivalsSpec, WorkloadSpec
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


def check_tensor_parallel(section: ExperimentSection, fleet: Deployment, source: Source) -> Iterator[Problem]:
    """Require the attention heads to be divisible by the GPUs of a node, for tensor parallelism."""
    heads = fleet.model.num_attention_heads
    for number, nodes in enumerate(section.cluster.nodes):
        if heads % nodes.gpus:
            allowed = ", ".join(str(gpus) for gpus in range(1, heads + 1) if heads % gpus == 0)
            message = (
                f"{nodes.gpus} GPUs cannot share the {heads} attention heads of {fleet.model.name} (allowed: {allowed})"
            )
            yield source.problem(("cluster", "nodes", number, "gpus"), message)


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
