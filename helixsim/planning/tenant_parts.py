"""Parts of a cluster for tenants: kinds of nodes, and the run of a tenant's experiment on some of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from helixsim.config.experiment import ResolvedExperiment
from helixsim.domain.cluster import Node
from helixsim.errors import ConfigError, HelixsimError, InfeasibleError
from helixsim.experiment import Experiment, Tenant, Tenants
from helixsim.results.runset import RunSet
from helixsim.results.tenants import Counts, NodeKind, Part
from helixsim.runtime.pool import Executor, Report, Serial
from helixsim.study.run import run_experiment
from helixsim.workload.feed import workload_stats
from helixsim.workload.streams import streams_of

NO_NODE = Part("", None, False, "no node")
"""What a tenant without nodes gets."""


def kinds_of(nodes: Sequence[Node]) -> tuple[NodeKind, ...]:
    """Return the kinds of nodes, in the order of the cluster: nodes of a kind differ in their names alone."""
    alike: dict[Node, list[Node]] = {}
    for node in nodes:
        alike.setdefault(replace(node, id=""), []).append(node)
    regions = {node.region for node in nodes}
    labels = [f"{one.node_type} in {one.region}" if len(regions) > 1 else one.node_type for one in alike]
    if len(set(labels)) < len(labels):  # they differ in their NIC, price or role
        labels = [f"{label} like {own[0].id}" for label, own in zip(labels, alike.values(), strict=True)]
    return tuple(
        NodeKind(label, tuple(node.id for node in own), own[0].gpus, own[0].cost_usd_per_hour)
        for label, own in zip(labels, alike.values(), strict=True)
    )


def nodes_of(kinds: Sequence[NodeKind], counts: Sequence[Counts]) -> tuple[tuple[str, ...], ...]:
    """Return the ids of the nodes of each tenant: the first nodes of each kind to the first tenant, and so on."""
    begun = [0] * len(kinds)
    found = []
    for own in counts:
        ids: list[str] = []
        for number, (kind, n) in enumerate(zip(kinds, own, strict=True)):
            ids += kind.ids[begun[number] : begun[number] + n]
            begun[number] += n
        found.append(tuple(ids))
    return tuple(found)


def counts_of(kinds: Sequence[NodeKind], ids: Sequence[str]) -> Counts:
    """Return how many of some nodes are of each kind."""
    own = set(ids)
    return tuple(sum(node in own for node in kind.ids) for kind in kinds)


def usable_nodes(tenants: Tenants, kinds: Sequence[NodeKind], number: int) -> tuple[str, ...]:
    """Return the nodes of the kinds that a tenant's model and engine run on at all.

    Raises
    ------
    ConfigError
        If there are none: the fault of the first kind.
    """
    tenant, found, faults = tenants.tenants[number], list[str](), list[ConfigError]()
    for kind in kinds:
        try:
            tenant.on(kind.ids, tenants.nodes).resolve()
        except ConfigError as error:
            faults.append(error)
            continue
        except InfeasibleError:
            pass  # with others it may
        found += kind.ids
    if not found:
        raise faults[0]
    order = {node.id: position for position, node in enumerate(tenants.nodes)}
    return tuple(sorted(found, key=order.__getitem__))


def each_alone(tenant: Tenant, experiment: ResolvedExperiment) -> list[tuple[ResolvedExperiment, float]]:
    """Return the experiment of each member of a tenant with its own requests and objectives alone, and its weight."""
    if len(tenant.members) == 1:
        return [(experiment, tenant.weight)]
    streams = {one.name: (load, seed) for one, load, seed in streams_of(experiment.workload, experiment.seed)}
    found = []
    for one in tenant.members:
        load, seed = streams[one.name]
        stats, slo = workload_stats(load, seed), experiment.slo.of(one.name)
        alone = replace(experiment, workload=load, workload_stats=stats, seed=seed, slo=slo)
        found.append((alone, one.weight))
    return found


@dataclass(frozen=True, slots=True)
class PartTask:
    """A tenant's experiment on a part of the cluster, to be run below ``out``."""

    name: str
    experiment: Experiment
    out: Path
    force: bool
    check: bool
    with_report: bool


def task_of(
    tenant: Tenant, nodes: Sequence[str], tenants: Tenants, out: Path, *, force: bool, check: bool, with_report: bool
) -> PartTask:
    """Return the task of a tenant on some nodes."""
    return PartTask(tenant.name, tenant.on(nodes, tenants.nodes), out, force, check, with_report)


def run_part(task: PartTask, report: Report, executor: Executor | None = None) -> Part:
    """Run a tenant's experiment, unless its run directory exists; the task of the executors.

    A part that cannot hold the model serves nothing. Other errors are raised. ``executor`` carries out the parts of
    the run.
    """
    try:
        experiment = task.experiment.resolve()
        directory = run_experiment(
            experiment, task.out, executor or Serial(), force=task.force, check=task.check,
            with_report=task.with_report, progress=lambda what, done: report(done, what),
        )  # fmt: skip
    except InfeasibleError as error:
        return Part("", None, False, str(error))
    except HelixsimError as error:
        raise error.within(f"tenant {task.name}") from None
    runs = RunSet.load(directory)
    (run,) = runs.values()
    verdict = runs.verdict.systems[run.name]
    return Part(directory.relative_to(task.out).as_posix(), run.summary, verdict.is_met)


def run_parts(
    tasks: Mapping[int, PartTask], executor: Executor, report: Report
) -> dict[int, Part]:  # fmt: skip
    """Run parts at the same time, each as a whole; raise the first error of the machine."""
    numbers = list(tasks)
    found: dict[int, Part] = {}
    for number, outcome in executor.carry_out(run_part, list(tasks.values()), report):
        if isinstance(outcome, HelixsimError):
            raise outcome
        found[numbers[number]] = outcome
    return found
