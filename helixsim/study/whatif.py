"""The systems of an experiment together with those of its what-if variants."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from helixsim.config.experiment import ResolvedExperiment, SystemSpec, Variant
from helixsim.domain.cluster import COORDINATOR
from helixsim.domain.placement import Placement
from helixsim.errors import HelixsimError, InfeasibleError
from helixsim.placement.base import Progress, silent
from helixsim.results.runset import WhatIf
from helixsim.runtime.pool import Executor
from helixsim.study.finished import SimulatedStore
from helixsim.study.placements import PlacementStore
from helixsim.study.placing import assembled, is_raced, place_system, routed
from helixsim.study.systems import PlacedSystem, on_its_nodes


@dataclass(frozen=True)
class Case:
    """One system to be run; ``kept``: the experiment and system whose placement serves it, None: its own search."""

    experiment: ResolvedExperiment
    system: SystemSpec
    kept: tuple[ResolvedExperiment, SystemSpec] | None = None

    @property
    def name(self) -> str:
        """Name of the system in all results."""
        return self.system.name

    @property
    def is_raced(self) -> bool:
        """Whether its placement is selected by a race of its own."""
        return self.kept is None and is_raced(self.experiment, self.system)


def cases(experiment: ResolvedExperiment) -> tuple[Case, ...]:
    """Return the systems of the experiment, then those of each variant."""
    own = {system.name: system for system in experiment.systems}
    found = [Case(experiment, system) for system in experiment.systems]
    for variant in experiment.variants:
        if variant.experiment is not None:
            for system in variant.experiment.systems:
                kept = None if variant.replan else (experiment, own[variant.bases[system.name]])
                found.append(Case(variant.experiment, system, kept))
    return tuple(found)


def hopeless(experiment: ResolvedExperiment) -> dict[str, HelixsimError]:
    """Return why systems of variants cannot even be tried: no fleet of theirs holds the model."""
    return {
        name: InfeasibleError(variant.failure)
        for variant in experiment.variants
        if variant.failure is not None
        for name in variant.bases
    }


def place_case(
    case: Case,
    *,
    progress: Progress = silent,
    store: PlacementStore | None = None,
    runs: SimulatedStore | None = None,
    executor: Executor | None = None,
) -> PlacedSystem:
    """Place the model for one system, or take over the placement of the unchanged one.

    Raises
    ------
    InfeasibleError
        If no placement is found, or the one taken over has no complete route any more.
    """
    if case.kept is None:
        return place_system(case.experiment, case.system, progress=progress, store=store, runs=runs, executor=executor)
    before = place_system(*case.kept, progress=progress, store=store, runs=runs, executor=executor).placement
    return keep_placement(case.experiment, case.system, before)


def keep_placement(experiment: ResolvedExperiment, system: SystemSpec, before: Placement) -> PlacedSystem:
    """Return a system with a placement that is kept on the nodes of it that are left.

    Raises
    ------
    InfeasibleError
        If it has no complete route any more.
    """
    fleet = on_its_nodes(system, before).fleet
    ranges = {node: held for node, held in before.ranges.items() if node in fleet.cluster.index}
    lost = [node for node in before.ranges if node not in ranges]
    kept = Placement(
        strategy=f"{before.strategy} (kept)",
        num_layers=before.num_layers,
        ranges=ranges,
        partial_inference=before.partial_inference,
        notes={"kept": True, "lost": lost},
        pipelines={node: number for node, number in before.pipelines.items() if node in ranges},
        widths=before.widths,
        roles={node: role for node, role in before.roles.items() if node in ranges},
    )
    try:
        placed = assembled(experiment, system, kept)
    except InfeasibleError as error:
        raise InfeasibleError(
            f"{system.name}: the placement does not outlive the change ({', '.join(lost) or 'no node'} lost): {error}; "
            "with replan: true the model is placed anew"
        ) from error
    objective = placed.plan.max_flow_tokens_per_s
    if "routing" in before.notes:
        routing = _left_of(before.notes["routing"], placed.plan.node_flow_tokens_per_s)
        kept = replace(kept, notes={"routing": routing, **kept.notes})
    own = on_its_nodes(routed(system, kept), kept)
    return replace(placed, system=own, placement=replace(kept, objective_tokens_per_s=objective))


def _left_of(routing: Mapping[str, Any], usable: Collection[str]) -> dict[str, Any]:
    """Return a selected routing without the shares of nodes that are on no route any more."""
    options: dict[str, Any] = dict(routing.get("options", {}))
    if "shares" in options:
        ends = {COORDINATOR, *usable}
        left = {src: {dst: own[dst] for dst in own if dst in ends} for src, own in options["shares"].items()}
        options["shares"] = {src: own for src, own in left.items() if src in ends and any(own.values())}
    return {**routing, "options": options}


def whatif_variants(variants: Sequence[Variant]) -> list[WhatIf]:
    """Return the variants as results tell of them."""
    return [
        WhatIf(
            variant.name,
            tuple(variant.changes) if variant.failure is None else (variant.failure,),
            dict(variant.bases),
        )
        for variant in variants
    ]
