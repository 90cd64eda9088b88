"""The reaction to nodes and links that fail or are back: possible reactions are rehearsed, and the best is taken.

A rehearsal is a simulation of the same loss under the load of the experiment, with other requests: the system as it
is, then the loss, its detection, the delay of the planner and one reaction, with the time to load weights. What counts
is what the time after the loss gives (``FaultSpec.horizon_ns``): the requests within the objectives.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from helixsim.config.experiment import ResolvedExperiment, SystemSpec
from helixsim.domain.cluster import COORDINATOR, Deployment, LinkSpec
from helixsim.domain.faults import Fault, FaultKind, FaultSpec, LinkFault, Outage
from helixsim.domain.placement import LayerRange, Placement
from helixsim.domain.request import Window
from helixsim.engine.inputs import FaultPlan, Replacement, SimulationInputs
from helixsim.engine.simulate import simulate
from helixsim.errors import InfeasibleError
from helixsim.metrics.score import score_of
from helixsim.placement.base import Contender
from helixsim.placement.constraints import moved_bytes, moved_to
from helixsim.placement.select import routes_of
from helixsim.routing.base import RoutingPolicy
from helixsim.study.placing import as_planned, assembled, place_system
from helixsim.study.systems import PlacedSystem, simulation_inputs
from helixsim.study.trial_notes import promising_policy
from helixsim.units import BITS_PER_BYTE, NS_PER_S, seconds_to_ns

SEED_OFFSET = 3_000_017
"""Reactions are rehearsed on other requests than those of the report, unless the load is a recorded trace."""

LEAST_WARMUP_NS = 60 * NS_PER_S
"""A rehearsal begins at least so long before the loss, unless the time after it is shorter."""

NEW_PLACEMENTS = 4
"""Placements of a search that are rehearsed, those with the highest estimates."""

SAME_SHARE, SAME_TOKENS = 0.01, 0.1
"""Reactions whose shares of requests within the objectives differ by no more, and whose output tokens relatively by no
more, are equally good: the one that moves fewest weights is taken."""

CUT_BPS = 1e-6
"""Bandwidth of links that are cut, for searches and flows [bit/s]."""

Rerouted = Callable[[PlacedSystem, SimulationInputs, Outage], RoutingPolicy | None]
"""Returns the policy of a placed system by the max-flow without some nodes and links; None if they leave no route."""


@dataclass(frozen=True)
class _Option:
    """A reaction: the placement, whether it is served by the flow of what is left, and whether it has to be loaded."""

    placed: PlacedSystem
    by_flow: bool = False
    is_loaded: bool = False
    moved_bytes: int = 0
    load_ns: int = 0


class Reactions:
    """What a system does about each outage (``FaultPlan.replace``).

    The reactions are to leave the placement as it is, to route by the max-flow of what is left of it, and to load
    another placement: one of those with the highest estimates that the strategy of the system finds on the nodes that
    are left, or, when all is as at first, the first one. Nodes of one kind exchange their layers so that few weights
    are loaded; each node loads the layers that it does not hold, all nodes at the same time.
    """

    def __init__(
        self, experiment: ResolvedExperiment, placed: PlacedSystem, spec: FaultSpec, seed: int, rerouted: Rerouted
    ) -> None:
        self._experiment = replace(experiment, faults=replace(spec, absent=()))  # searches have all that is not out
        self._spec, self._seed, self._rerouted = spec, seed, rerouted
        self._asked = next((one for one in experiment.systems if one.name == placed.system.name), placed.system)
        self._first = self._now = placed
        self._out = Outage(frozenset(spec.absent))
        self._by_flow = False
        self._held: dict[str, LayerRange] = dict(placed.placement.ranges)
        self._found: dict[Outage, list[PlacedSystem]] = {self._out: [placed]}
        self._chosen: dict[tuple[object, ...], _Option | None] = {}

    def __call__(self, out: Outage, *, serves: bool = True) -> Replacement | RoutingPolicy | None:
        """Return what to do when these nodes and links are out; None: nothing.

        ``serves``: whether the placement of before is loaded.
        """
        held = tuple(sorted((node, at.start, at.end) for node, at in self._held.items()))
        key = (id(self._now), self._by_flow, self._out, out, serves, held)
        if key not in self._chosen:
            self._chosen[key] = self._choice(out, serves=serves)
        chosen = self._chosen[key]
        before, self._out = (self._now, self._by_flow), out
        if chosen is None:
            return None
        self._now, self._by_flow = chosen.placed, chosen.by_flow
        if chosen.is_loaded:
            self._held |= chosen.placed.placement.ranges
            return self._loaded(chosen)
        if (self._now, self._by_flow) == before and not chosen.by_flow:
            return None
        return self._policy(chosen, out, simulation_inputs(self._experiment, chosen.placed, seed=self._seed))

    def _policy(self, option: _Option, out: Outage, inputs: SimulationInputs) -> RoutingPolicy | None:
        return self._rerouted(option.placed, inputs, out) if option.by_flow else inputs.policy

    def _loaded(self, option: _Option, window: Window | None = None) -> Replacement:
        inputs = simulation_inputs(self._experiment, option.placed, window=window, seed=self._seed)
        return Replacement(replace(inputs, fleet=self._first.system.fleet), option.load_ns)  # with what is out now

    # --- the choice ---------------------------------------------------------------------------------------------------

    def _choice(self, out: Outage, *, serves: bool) -> _Option | None:
        """Return the best reaction; None: there is none."""
        shown: list[tuple[_Option, tuple[float, float]]] = []
        for option in self._kept() if serves else []:
            shown.append((option, self._rehearsed(option, out)))
            if self._experiment.slo.is_stated and shown[-1][1][0] >= 1.0 - SAME_SHARE:
                return option  # none is better by more than counts
        others = self._new(out, serves=serves)
        if not shown and len(others) < 2:
            return others[0] if others else None
        shown += [(option, self._rehearsed(option, out)) for option in others]
        share, tokens = max(value for _, value in shown)
        near = [
            (option.moved_bytes, option.is_loaded, -value[0], -value[1], number)
            for number, (option, value) in enumerate(shown)
            if value[0] >= share - SAME_SHARE and value[1] >= tokens * (1.0 - SAME_TOKENS)
        ]
        return shown[min(near)[-1]][0]

    def _kept(self) -> list[_Option]:
        """Return the reactions that load nothing."""
        return [_Option(self._now), _Option(self._now, by_flow=True)]

    def _new(self, out: Outage, *, serves: bool) -> list[_Option]:
        """Return the reactions that load a placement: those found, and what is left of one that does not serve."""
        found = self._found.get(out)
        if found is None:
            found = self._found[out] = self._searched(out)
        if not serves:
            left = self._now.placement.part(self._now.placement.ranges.keys() - out.nodes)
            with suppress(InfeasibleError):
                found = [*found, assembled(self._experiment, self._left(out, self._now.system), left)]
        return [self._option(one) for one in found if one is not self._now or not serves]

    def _option(self, placed: PlacedSystem) -> _Option:
        """Return the reaction to load a placement."""
        if placed is not self._first:
            fleet = placed.system.fleet
            placed = replace(placed, placement=moved_to(fleet, placed.placement, self._held))
            placed = assembled(self._experiment, placed.system, placed.placement)
        fleet, ranges = placed.system.fleet, placed.placement.ranges
        slowest = max(moved_bytes(fleet, {node: held}, self._held) for node, held in ranges.items())
        load_s = slowest * BITS_PER_BYTE / self._spec.load_bps
        moved = moved_bytes(fleet, ranges, self._held)
        return _Option(placed, False, True, moved, seconds_to_ns(load_s) + self._spec.startup_ns)

    # --- placements ---------------------------------------------------------------------------------------------------

    def _left(self, out: Outage, system: SystemSpec) -> SystemSpec:
        """Return a system on the nodes that are left, those without layers included."""
        fleet = self._first.system.fleet
        return replace(system, fleet=with_cuts(fleet.without(out.nodes, paid=out.nodes), out))

    def _searched(self, out: Outage) -> list[PlacedSystem]:
        """Return placements on the nodes that are left, by the strategy of the system."""
        raced: list[Placement] = []

        def select(contenders: Sequence[Contender], _report: Callable[[str], None]) -> Placement:
            """Keep the placements with the highest estimates, and the best of each kind of routes."""
            whole = [one for one in contenders if not one.placement.widths]  # machines stay as they are during a run
            if not whole:
                raise InfeasibleError(f"{self._asked.name}: machines cannot be divided otherwise during a run")
            whole.sort(key=lambda one: -math.inf if one.estimate is None else -one.estimate)
            kinds = {routes_of(one.placement): one for one in reversed(whole)}.values()
            raced.extend(one.placement for one in whole if one in kinds or one in whole[:NEW_PLACEMENTS])
            return raced[0]

        left = self._left(out, self._asked)
        try:
            found = place_system(self._experiment, left, select=select).placement
        except InfeasibleError:
            return []
        placed = []
        for one in raced or [found]:
            with suppress(InfeasibleError):
                whole = assembled(self._experiment, left, one)
                if self._asked.routing == "auto":
                    policy = promising_policy(whole.placement, whole.plan)
                    notes = {**one.notes, "routing": {"policy": policy, "options": {}}}
                    whole = assembled(self._experiment, left, replace(one, notes=notes))
                placed.append(whole)
        return placed

    # --- rehearsals ---------------------------------------------------------------------------------------------------

    def _rehearsed(self, option: _Option, out: Outage) -> tuple[float, float]:
        """Return the share of the requests within the objectives and the output tokens/s after a loss or a return.

        Without objectives the share is that of nothing, 0. Notices are rehearsed as losses.
        """
        spec, before = self._spec, self._out
        planned = as_planned(self._experiment)
        warmup_ns = min(max(planned.workload.window.warmup_ns, LEAST_WARMUP_NS), spec.horizon_ns)
        window = Window(warmup_ns, spec.horizon_ns, drain=False)
        planned = replace(planned, workload=replace(planned.workload, window=window))  # requests arrive until its end
        inputs = simulation_inputs(planned, self._now, window=window, seed=planned.seed + SEED_OFFSET)
        if self._by_flow and (policy := self._rerouted(self._now, inputs, before)) is not None:
            inputs = replace(inputs, policy=policy)
        inputs = replace(inputs, fleet=self._first.system.fleet)
        target = _likeness(out)

        def react(out: Outage, *, serves: bool) -> Replacement | RoutingPolicy | None:
            if _likeness(out) != target or not serves:
                return None
            return self._loaded(option, window) if option.is_loaded else self._policy(option, out, inputs)

        faults = FaultPlan(
            tuple(_node_faults(before, out, warmup_ns)), spec.detection_ns, spec.retry_limit, spec.timeout_ns,
            spec.delay_ns, replace=react, links=tuple(_cuts(before, out, warmup_ns)), clients=spec.clients,
        )  # fmt: skip
        run = simulate(replace(inputs, faults=faults))
        score = score_of(run, planned.slo, inputs.fleet, self._now.placement)
        return (score.share if planned.slo.is_stated else 0.0), score.output_tokens_per_s


def _node_faults(before: Outage, out: Outage, at_ns: int) -> list[Fault]:
    """Return the faults of a rehearsal: nodes out since its beginning, those that are lost and those that are back."""
    found = []
    for kind, nodes, time_ns in (
        (FaultKind.DOWN, before.nodes, 0),
        (FaultKind.DOWN, out.nodes - before.nodes, at_ns),
        (FaultKind.UP, before.nodes - out.nodes, at_ns),
    ):
        if nodes:
            found.append(Fault(time_ns, kind, tuple(sorted(nodes))))
    return found


def _cuts(before: Outage, out: Outage, at_ns: int) -> list[LinkFault]:
    """Return the cuts of a rehearsal, in the order of time."""
    cuts = [
        replace(cut, at_ns=0 if cut in before.cuts else at_ns, end_ns=None if cut in out.cuts else at_ns)
        for cut in sorted(before.cuts | out.cuts, key=lambda cut: (cut.at_ns, sorted(cut.near), sorted(cut.far)))
    ]
    return sorted(cuts, key=lambda cut: cut.at_ns)


def _likeness(out: Outage) -> tuple[object, ...]:
    """Return what an outage has in common with the same one at another time."""
    return out.nodes, frozenset((cut.near, cut.far) for cut in out.cuts)


def with_cuts(fleet: Deployment, out: Outage) -> Deployment:
    """Return a fleet whose cut links carry next to nothing."""
    if not out.cuts:
        return fleet
    cluster = fleet.cluster
    ends = {node.machine or node.id: node.id for node in cluster.nodes} | {COORDINATOR: COORDINATOR}
    cut = {
        (src, dst): LinkSpec(CUT_BPS, cluster.link(own_src, own_dst).latency_ns)
        for src, own_src in ends.items()
        for dst, own_dst in ends.items()
        if src != dst and out.cuts_link(own_src, own_dst)
    }
    network = replace(cluster.network, pairs={**cluster.network.pairs, **cut})
    return replace(fleet, cluster=replace(cluster, network=network))
