"""Capacity after the loss of nodes: of one of each kind (N-1), of single nodes, or of a site.

Equal nodes need not be tried one by one. Where the model is placed anew, nodes of one type at one site with links and
limits of their class are equal. Where the placement is kept, such nodes are equal if they hold the same layers, and in
a placement of pipelines if their pipelines do. A node that holds nothing is no loss. A lost node costs what it did.
A machine that the placement divides is lost as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from helixsim.config.experiment import ResolvedExperiment, SystemSpec
from helixsim.domain.cluster import Cluster
from helixsim.domain.placement import Placement
from helixsim.domain.reliability import Reliability
from helixsim.errors import ConfigError, InfeasibleError, did_you_mean, unknown_name
from helixsim.planning.capacity import Searched, SearchOptions, SearchTask, capacity_of, search_seed, tasks_after
from helixsim.results.capacity import CapacityEstimate, LossCapacity, SystemCapacity
from helixsim.runtime.identity import content_key
from helixsim.runtime.pool import Report
from helixsim.study.systems import PlacedSystem

ANY_NODE = "any-node"
"""The loss of any single node: one of each class of equal nodes is tried."""


@dataclass(frozen=True)
class Losses:
    """Losses to search: as written, and whether the model is placed anew after each (as in what-if variants).

    ``reliability``: how often nodes fail, for what is served over time by the losses of any single node; None: unknown.
    """

    wanted: tuple[str, ...]
    replan: bool = True
    reliability: Reliability | None = None


@dataclass(frozen=True)
class Loss:
    """One loss: the nodes, and how many single nodes there are whose loss is equal.

    ``down_share``: share of time in which any one of these is down; None: not known.
    """

    name: str
    nodes: frozenset[str]
    alike: int = 1
    down_share: float | None = None


@dataclass(frozen=True)
class LossTask:
    """The search after a loss; ``whole`` is the capacity with all nodes, by which the search starts."""

    task: SearchTask
    options: SearchOptions
    loss: Loss
    whole: SystemCapacity


def check_losses(experiment: ResolvedExperiment, losses: Losses) -> None:
    """Check that every loss names nodes of the experiment, and leaves one.

    Raises
    ------
    ConfigError
        With every fault.
    """
    faults = []
    for text in losses.wanted:
        try:
            nodes = () if text == ANY_NODE else _named(text, experiment.fleet.cluster)
            if len(nodes) == len(experiment.fleet.cluster.nodes):
                faults.append(f"--lose {text}: no node is left")
        except ConfigError as error:
            faults.append(str(error))
    if faults:
        raise ConfigError("\n".join(faults))


def losses_of(losses: Losses, placed: PlacedSystem) -> list[Loss]:
    """Return the losses of a system, each class of equal nodes once."""
    found: list[Loss] = []
    for text in losses.wanted:
        if text == ANY_NODE:
            found += _classes(placed, losses.reliability, by_layers=not losses.replan)
        else:
            machines = _machines(placed)
            nodes = [placed.system.fleet.cluster.node(own[0]) for own in machines.values()]
            named = [replace(node, id=machine) for node, machine in zip(nodes, machines, strict=True)]
            found.append(Loss(text, frozenset(_named(text, replace(placed.system.fleet.cluster, nodes=tuple(named))))))
    return list({loss.nodes: loss for loss in reversed(found)}.values())[::-1]


def loss_tasks(
    task: SearchTask, options: SearchOptions, losses: Losses, parts: Sequence[Searched]
) -> tuple[list[LossTask], list[LossCapacity]]:
    """Return the searches after each loss of a system, and the results of losses that need none.

    Nodes that hold no layers do not serve: the placement is kept without them, and the capacity is that of all nodes.
    """
    placed = parts[0].placed
    whole = capacity_of(task, parts)
    tasks, known = [], []
    machines = _machines(placed)
    for loss in losses_of(losses, placed):
        if placed.placement.ranges.keys().isdisjoint(node for machine in loss.nodes for node in machines[machine]):
            known.append(replace(_capacity(loss, whole.estimates), is_idle=True))
            continue
        experiment, system = without(task.experiment, task.system, loss)
        kept = None if losses.replan and system.placement != "fixed" else placed.placement
        lost = replace(task, experiment=experiment, system=system, placed=None, kept=kept)
        if placed.operating is not None and whole.estimates[0].by_seed[0]:
            stats = task.experiment.workload_stats
            operating_rps = placed.operating.tokens_per_s / (stats.mean_prompt_tokens + stats.mean_output_tokens)
            lost = replace(lost, first_share=whole.estimates[0].by_seed[0] / operating_rps)
        tasks.append(LossTask(lost, replace(options, with_curve=False), loss, whole))
    return tasks, known


def without(experiment: ResolvedExperiment, system: SystemSpec, loss: Loss) -> tuple[ResolvedExperiment, SystemSpec]:
    """Return an experiment with one system, after a loss."""
    system = replace(system, fleet=system.fleet.without(loss.nodes, paid=loss.nodes))
    key = content_key("loss", experiment.config_hash, sorted(loss.nodes))
    fleet = experiment.fleet.without(loss.nodes, paid=loss.nodes)
    others = tuple(
        replace(one, fleet=one.fleet.without(loss.nodes, paid=loss.nodes))
        for one in experiment.systems
        if one.name != system.name
    )
    return replace(experiment, fleet=fleet, systems=(system, *others), variants=(), config_hash=key), system


def search_loss(task: LossTask, report: Report) -> LossCapacity:
    """Search the capacity after a loss; the task of the executors.

    Where nothing that is left can serve the model, the capacity is 0. Other errors are raised.
    """
    loss = task.loss

    def told(share: float, what: str) -> None:
        report(share, f"without {loss.name}: {what}")

    try:
        first = search_seed(task.task, told)
    except InfeasibleError as error:
        none = [
            replace(one, by_seed=(0.0,) * len(one.by_seed), rate_rps=0.0, low_rps=None, high_rps=None,
                    binds=str(error), at_capacity=None, slack=replace(one.slack, points=()))
            for one in task.whole.estimates
        ]  # fmt: skip
        return _capacity(loss, tuple(none))
    parts = [first, *(search_seed(more, told) for more in tasks_after(first, task.task, task.options))]
    found = capacity_of(task.task, parts)
    return _capacity(loss, found.estimates, found.simulations)


def _capacity(loss: Loss, estimates: tuple[CapacityEstimate, ...], simulations: int = 0) -> LossCapacity:
    nodes = tuple(sorted(loss.nodes))
    return LossCapacity(loss.name, nodes, loss.alike, estimates, simulations, down_share=loss.down_share)


def _named(text: str, cluster: Cluster) -> tuple[str, ...]:
    """Return the nodes that a loss names."""
    kind, colon, name = text.partition(":")
    ids = [node.id for node in cluster.nodes]
    if not colon:
        found = tuple(node for node in ids if fnmatchcase(node, text))
        if not found:
            known = ", ".join(ids[:12]) + (", …" if len(ids) > 12 else "")
            hint = did_you_mean(text, [ANY_NODE, *ids])
            raise ConfigError(f"--lose {text}: matches no node{hint} (ids: {known})")
        return found
    if kind not in {"site", "region", "gpu"}:
        raise ConfigError(
            f"--lose {text}: expected {ANY_NODE}, a node or pattern, site:NAME (or region:NAME), gpu:NAME"
        )
    names = [node.gpu if kind == "gpu" else node.region for node in cluster.nodes]
    if name not in names:
        raise ConfigError(f"--lose {text}: {unknown_name(kind, name, list(dict.fromkeys(names)))}")
    return tuple(node for node, own in zip(ids, names, strict=True) if own == name)


def _machines(placed: PlacedSystem) -> dict[str, list[str]]:
    """Return the nodes of each machine that the placement divides, and the other nodes one by one."""
    found: dict[str, list[str]] = {}
    for node in placed.system.fleet.cluster.nodes:
        machine = node.machine if node.machine in placed.placement.widths else None
        found.setdefault(machine or node.id, []).append(node.id)
    return found


def _classes(placed: PlacedSystem, reliability: Reliability | None, *, by_layers: bool) -> list[Loss]:
    """Return one loss for each class of equal nodes, the first node of it."""
    fleet, placement = placed.system.fleet, placed.placement
    single = {end for pair in fleet.cluster.network.pairs for end in pair}
    options = repr(placed.system.placement_options)
    by_layers = by_layers or placed.system.placement == "fixed"
    static: dict[str, tuple[object, ...]] = {}
    for node in fleet.cluster.nodes:
        machine = node.machine or node.id
        is_named = machine in single or f"'{node.id}'" in options
        static[node.id] = (
            node.node_type, node.region, node.nic_bps, node.kv_blocks, node.max_requests, machine if is_named else None,
        )  # fmt: skip
    classes: dict[object, list[str]] = {}
    machines = _machines(placed)
    for machine, nodes in machines.items():
        roles = [_role(node, placement, static) if by_layers else node in placement.ranges for node in nodes]
        classes.setdefault((tuple(static[node] for node in nodes), tuple(map(repr, roles))), []).append(machine)

    def down_share(machine: str) -> float | None:
        parts = machines[machine]
        return None if reliability is None else reliability.down_share(fleet.cluster.type_of(parts))

    return [Loss(nodes[0], frozenset(nodes[:1]), len(nodes), down_share(nodes[0])) for nodes in classes.values()]


def _role(node: str, placement: Placement, static: dict[str, tuple[object, ...]]) -> object:
    """Return what a node holds, with what the nodes of its pipeline hold."""
    held = placement.ranges.get(node)
    number = placement.pipelines.get(node)
    if held is None or number is None:
        return held
    fellows = [other for other, own in placement.pipelines.items() if own == number]
    return held, tuple(sorted(repr((static[other], placement.ranges.get(other))) for other in fellows))
