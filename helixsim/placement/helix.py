"""Helix's placement: search for a large max-flow, then choose among the best candidates by simulation.

Max-flow alone favours deep pipelines, as it ignores latency and KV memory. So the search does not stop at the largest
flow: for smaller and smaller flows it also finds the pipeline with the fewest hops, and an evaluator (short simulations
of the actual workload) picks from this frontier and the heuristics. See docs/placement.md.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from helixsim.domain.placement import LayerRange, Placement
from helixsim.errors import ConfigError, InfeasibleError
from helixsim.flow.capacity import upper_bound_share
from helixsim.flow.losses import worst_loss
from helixsim.flow.maxflow import plan_of
from helixsim.flow.network import build_network
from helixsim.placement import tuning
from helixsim.placement.base import Contender, PlacementProblem, Strategy
from helixsim.placement.check import check
from helixsim.placement.constraints import limited_table, moved_bytes, narrowed, reassigned
from helixsim.placement.divisions import best_of_division, divisions_of
from helixsim.placement.fixed import previous_ranges
from helixsim.placement.helix_options import HelixOptions
from helixsim.placement.heuristics import CHAINS, heuristics
from helixsim.placement.outcome import why_none
from helixsim.placement.select import Candidate, best, contenders, distinct_name, listed, scored
from helixsim.placement.stages import NodeGroup, Pipeline, groups_of, hops, lay_out
from helixsim.placement.subsets import subsets
from helixsim.placement.survivors import survival_notes, survivors, with_all_room
from helixsim.placement.swaps import swapped

OPERATING, SURVIVING = "operating-", "surviving-"
"""Prefixes of pipelines by the second estimate of capacity, and of those that survive a loss."""


class Helix:
    """Placement by max-flow, as in Helix (ASPLOS'25), but with a search that counts interchangeable nodes.

    The paper solves a mixed-integer program over all nodes for hours; this search finds larger flows in seconds.
    """

    summary: ClassVar[str] = "largest max-flow, or the best of its frontier by simulation (Helix)"
    Options: ClassVar[type[HelixOptions]] = HelixOptions

    def solve(self, problem: PlacementProblem, options: HelixOptions) -> Placement:
        """Return the placement.

        Raises
        ------
        ConfigError
            If an option does not fit the fleet.
        InfeasibleError
            If no placement was found.
        """
        for option, message in options.faults(problem.fleet):
            raise ConfigError(f"helix: {option}: {message}")
        return _Search(narrowed(problem, options.exclude, options.max_layers), options).run()


class _Search:
    """One run of the strategy: collects candidates, tracks the best flow and the bound, then selects."""

    def __init__(
        self, problem: PlacementProblem, options: HelixOptions, division: Mapping[str, int] | None = None
    ) -> None:
        """``division``: machines that the problem divides, with the GPUs of their parts."""
        self.problem, self.num_layers = problem, problem.fleet.model.num_layers
        self.options, self.division = options, dict(division or {})
        self.started = time.perf_counter()
        self.pinned = {node: LayerRange(*pair) for node, pair in options.pinned.items()}
        self.previous = {} if options.previous is None else previous_ranges(problem.fleet, options.previous)
        self.candidates: list[Candidate] = []
        self.best, self.bound = 0.0, upper_bound_share(problem.fleet, problem.capacity)
        self.history: list[tuple[float, float, float]] = []
        self.bounds: dict[str, float] = {}
        self.scores: dict[str, float] = {}
        self.most, self.survival_bound = 0.0, math.inf
        self.interrupted = self.out_of_time = False
        self.selected: Placement | None = None
        self.too_large: dict[str, int] = {}
        self._races = problem.select is not None and options.select == "simulate" and not self.previous

    def run(self) -> Placement:
        """Search and select. On Ctrl-C the candidates so far are used."""
        groups = groups_of(self.problem)
        steps: list[Callable[[], None]] = [
            self._add_heuristics,
            self._tighten_bound,
            lambda: self._add_pipelines(self.problem, groups),
            self._add_surviving,
            self._add_operating_pipelines,
            self._add_divided,
            self._add_exact,
            self._add_subsets,
            self._leave_out_lost,
            self._evaluate,
        ]
        try:
            for step in steps:
                step()
        except KeyboardInterrupt:
            if not self.candidates:
                raise
            self.interrupted = True
            self._leave_out_lost()
        if not self.candidates:
            raise InfeasibleError(why_none(self.problem.fleet, groups, self.options))
        return self._outcome()

    def _seconds(self) -> float:
        return time.perf_counter() - self.started

    def _time_left_s(self) -> float:
        return self.options.time_limit_s - self._seconds()

    def _report(self, step: str) -> None:
        self.problem.progress(step, self._seconds(), self.best, self.bound)

    def _add(
        self,
        name: str,
        ranges: Mapping[str, LayerRange],
        *,
        is_searched: bool = True,
        by_operating: bool = False,
        partial: bool = False,
        pipelines: Mapping[str, int] | None = None,
    ) -> None:
        """Add a candidate with its exact max-flow, if that is positive and hop limit and pins are kept."""
        fleet, order = self.problem.fleet, self.problem.fleet.cluster.index
        if not pipelines and (self.pinned or self.previous):
            ranges = reassigned(fleet, ranges, self.previous, self.pinned)
        placement = Placement(
            strategy="helix",
            num_layers=fleet.model.num_layers,
            ranges=dict(sorted(ranges.items(), key=lambda item: order[item[0]])),
            partial_inference=partial,
            pipelines=dict(pipelines or {}),
            widths=self.division,
        )
        try:
            check(fleet, placement)
        except InfeasibleError:
            return
        network = build_network(fleet, placement, self.problem.capacity)
        if self.problem.estimate is not None and self.candidates and len(network.arcs) > tuning.MAX_ARCS:
            self.too_large[name] = len(network.arcs)
            return
        plan = plan_of(network, balanced=False)
        flow = plan.max_flow_tokens_per_s
        is_too_deep = self.options.max_hops is not None and plan.max_hops > self.options.max_hops
        if flow <= 0 or is_too_deep or any(placement.ranges.get(node) != at for node, at in self.pinned.items()):
            return
        placement, name = replace(placement, objective_tokens_per_s=flow), distinct_name(name, self.candidates)
        moved = moved_bytes(fleet, placement.ranges, self.previous) if self.previous else 0
        worst = worst_loss(fleet, placement, self.problem.capacity, kind) if (kind := self.options.survive) else None
        hops_of = plan.max_hops, plan.mean_hops
        self.candidates.append(Candidate(name, placement, *hops_of, is_searched, moved, by_operating, worst))
        if flow > self.best:
            self.best = flow
            self.history.append((self._seconds(), flow, self.bound))
        self._report(name)

    def _add_heuristics(self) -> None:
        is_simulated = self.problem.evaluator is not None and self.options.select == "simulate"
        partial = is_simulated if self.options.partial_inference is None else self.options.partial_inference
        self._add_made_by(heuristics(raced=self._races, partial=partial))

    def _add_made_by(self, strategies: Sequence[tuple[Strategy, Any]]) -> None:
        for strategy, options in strategies:
            try:
                made = strategy.solve(replace(self.problem, needs_flow=False), options)
            except InfeasibleError:
                continue
            self._add(
                made.strategy, made.ranges, is_searched=False, partial=made.partial_inference, pipelines=made.pipelines
            )

    def _add_operating_pipelines(self) -> None:
        """Add pipelines that are best by the second estimate of capacity; only an evaluator can rank them."""
        table = self.problem.operating
        if table is None or self.problem.evaluator is None or self.options.select == "flow":
            return
        problem = replace(self.problem, capacity=limited_table(table, self.options.max_layers))
        if problem.capacity.tables != self.problem.capacity.tables:
            self._add_pipelines(problem, groups_of(problem), OPERATING)

    def _add_surviving(self) -> None:
        if self.options.survive is not None:
            self._add_pipelines(self.problem, groups_of(with_all_room(self.problem)), SURVIVING)

    def _leave_out_lost(self) -> None:
        """Leave out candidates that keep too little after their worst loss."""
        if self.options.survive is not None and self.candidates:
            self.most = max(one.flow_tokens_per_s for one in self.candidates)
            known = self.candidates, self.survival_bound
            self.candidates, self.survival_bound = survivors(self.problem, self.options, *known, self._time_left_s)

    def _add_pipelines(self, problem: PlacementProblem, groups: tuple[NodeGroup, ...], prefix: str = "") -> None:
        """Add the pipelines with the largest flow by the problem's capacities, then shorter ones with less flow.

        A race tells candidates apart that differ by a few per cent: the search for them is rough.
        """
        from helixsim.placement.regions import RegionPipeline, best_pipelines  # deferred: loads the solver
        from helixsim.placement.survival import surviving_pipelines

        if not groups:
            return
        most_swaps = tuning.RACED_SWAPS if self._races else tuning.MAX_SWAPS
        steps = min(most_swaps, tuning.MAX_SWAP_WORK // len(problem.fleet.cluster.nodes) ** 2)

        def settled(
            pipelines: Sequence[Pipeline], flow: float, replicas: Mapping[str, int]
        ) -> tuple[dict[str, LayerRange], float]:
            ranges = lay_out(groups, pipelines)
            return swapped(problem, ranges, flow, replicas=replicas, steps=steps, time_left_s=self._time_left_s)

        def add(name: str, pipelines: Sequence[Pipeline], sources: Sequence[RegionPipeline], share: float) -> None:
            replicas: dict[str, int] = {}
            if len(sources) > 1:
                number = {region: at for at, source in enumerate(sources) for region in source.search.order}
                replicas = {n: number[group.region] for group in groups if group.region in number for n in group.nodes}
            flow = share * sum(source.flow_tokens_per_s for source in sources)
            ranges, _ = settled(pipelines, flow, replicas)
            if replicas:  # isolated replicas; the same ranges with exchange of tokens are another candidate
                isolated = {node: replicas[node] for node in ranges}
                self._add(f"{prefix}{name}-apart", ranges, pipelines=isolated, by_operating=prefix == OPERATING)
            self._add(prefix + name, ranges, by_operating=prefix == OPERATING)

        survive = self.options.survive if prefix == SURVIVING else None
        if survive == "host":
            sources = surviving_pipelines(groups, self.num_layers, self.options.max_hops, self._time_left_s)
        else:
            sources = best_pipelines(
                problem, groups, self.options.max_hops, self._time_left_s,
                lambda name, rough: add(name, [source.pipeline for source in rough], rough, 1.0),
                lambda pipeline, flow: settled([pipeline], flow, {})[1],
                across=self.options.across_regions and survive is None, rough=self._races,
            )  # fmt: skip
        if not sources:
            return
        pipelines = [source.pipeline for source in sources]
        shallowest = max(map(hops, pipelines))
        add(f"blocks-{shallowest}", pipelines, sources, 1.0)
        size = sum(len(group.nodes) for group in groups)
        coarser = self._races + sum(size > limit for limit in tuning.FRONTIER_COARSE_NODES)
        step = tuning.FRONTIER_STEP ** (2**coarser)
        share = step
        while share >= tuning.FRONTIER_END and self._time_left_s() > 0:
            shorter = [source.shorter(share, self.options.max_hops, self._time_left_s) for source in sources]
            pipelines = [new or previous for new, previous in zip(shorter, pipelines, strict=True)]
            depth = max(map(hops, pipelines))
            if depth < shallowest:
                add(f"blocks-{depth}", pipelines, sources, share)
                shallowest = depth
            share *= step

    def _add_exact(self) -> None:
        if self.options.method != "exact":
            return
        from helixsim.placement.milp import improved

        result = improved(
            self.problem, self.options, self.candidates, self.bound, max(1.0, self._time_left_s()),
            lambda _s, objective, bound: self.problem.progress(
                "exact", self._seconds(), max(objective, self.best), min(bound, self.bound)
            ),
        )  # fmt: skip
        if self.options.survive is not None:
            self.survival_bound = result.bound_tokens_per_s
        elif result.is_optimal and self.options.max_hops is None:
            self.bound = max(result.bound_tokens_per_s, self.best)
        if result.ranges:
            self._add("exact", result.ranges)

    def _tighten_bound(self) -> None:
        if self.bound > self.best * (1 + tuning.OPTIMAL_GAP):
            from helixsim.placement.bounds import configuration_bound

            bound = configuration_bound(self.problem.fleet, self.problem.capacity, self.best, self._time_left_s)
            self.bound = min(self.bound, max(bound, self.best))
            self.history.append((self._seconds(), self.best, self.bound))
            self._report("bound")

    def _add_subsets(self) -> None:
        """Add placements on parts of the nodes, where a race can tell what nodes are worth."""
        estimate = self.problem.estimate
        if not self._races or estimate is None:
            return

        def searched(part: PlacementProblem) -> list[Placement]:
            """Return the best placement of the nodes by the estimate; time is shared with the other searches."""
            narrow = replace(self.options, across_regions=False, time_limit_s=max(1.0, self._time_left_s() / 4))
            search = _Search(part, narrow, self.division)
            search.too_large = self.too_large
            groups = groups_of(part)
            if self._time_left_s() <= 0 or sum(len(g.nodes) * len(g.tokens_per_s) for g in groups) < self.num_layers:
                return []
            search._add_pipelines(part, groups)
            found = sorted(search.candidates, key=lambda c: -estimate(c.placement))[:1]
            return [replace(one.placement, strategy=one.name) for one in found]

        for subset in subsets(self.problem, searched):
            self._add(subset.name, subset.ranges, pipelines=subset.pipelines)

    def _add_divided(self) -> None:
        """Add the best placements by the estimate on machines that are divided into nodes of fewer GPUs.

        The bound becomes the largest of these divisions, and of the machines as they are.
        """
        estimate, divide, options = self.problem.estimate, self.problem.divide, self.options
        is_limited = options.exclude or options.max_layers or options.pinned  # by nodes as they stand
        if not self._races or estimate is None or divide is None or is_limited:
            return
        divisions = divisions_of(self.problem.fleet)
        parts: dict[str, _Search] = {}
        for name, widths in divisions.items():
            if (left_s := self._time_left_s()) <= 0:
                break
            problem = replace(divide(widths), estimate=estimate, select=self.problem.select)
            narrow = replace(options, across_regions=False, time_limit_s=max(1.0, left_s / 4))
            part = parts[name] = _Search(replace(problem, progress=self.problem.progress), narrow, widths)
            part.too_large = self.too_large
            part.add_chains()
            self.candidates += best_of_division(name, part.candidates, self.problem.fleet, divisions, estimate)
        own = self.bound
        for part in sorted(parts.values(), key=lambda one: -one.bound):
            if part.bound > self.bound:  # the others do not raise it
                part._tighten_bound()
            self.bound = max(self.bound, part.bound)
        if parts:
            self.bounds = {"": own, **{name: part.bound for name, part in parts.items()}}

    def add_chains(self) -> None:
        """Add chains of equal nodes, on all and on parts of the nodes; those of a problem with divided machines.

        Pipelines through unequal nodes are searched on the machines as they are: small parts make them longer.
        """
        self._add_made_by(CHAINS)
        for subset in subsets(self.problem, lambda _part: []):
            self._add(subset.name, subset.ranges, pipelines=subset.pipelines)

    def _race(self) -> None:
        """Let the race select among all candidates and routings."""
        estimate, select = self.problem.estimate, self.problem.select
        assert estimate is not None
        assert select is not None
        estimates = {candidate.name: estimate(candidate.left) for candidate in self.candidates}
        chosen = contenders(self.candidates, estimates, max(1, self.options.candidates // 2))
        found = self.selected = select(
            [Contender(one.name, one.placement, estimates[one.name]) for one in chosen], self._report
        )
        if found.notes.get("chosen") not in estimates:  # a baseline or one with roles, to be listed with the candidates
            own = self
            if found.widths and self.problem.divide is not None:
                own = _Search(self.problem.divide(found.widths), self.options, found.widths)
            own._add(
                found.notes.get("chosen", found.strategy), found.ranges, is_searched=False,
                partial=found.partial_inference, pipelines=found.pipelines,
            )  # fmt: skip
            self.candidates += own.candidates if own is not self else []

    def _evaluate(self) -> None:
        """Score the finalists by simulation, then the neighbours of the best, unless max-flow decides."""
        self.out_of_time = self._time_left_s() <= 0  # of the search; simulations have no time limit
        if self._races and self.problem.estimate is not None:
            self._race()
        elif self.problem.evaluator is not None and self.options.select == "simulate":
            limit, estimate = self.options.candidates, self.problem.estimate
            self.scores = scored(self.candidates, self.problem.evaluator, estimate, limit, self._report)

    def _outcome(self) -> Placement:
        chosen = best(self.candidates, self.scores, self.options.move_tolerance)
        placement = chosen.placement if self.selected is None else replace(self.selected, strategy="helix")
        name = placement.notes.get("chosen", chosen.name)
        survival, gap = survival_notes(self.options, self.candidates, name, self.most, self.survival_bound)
        gap = 1.0 - placement.objective_tokens_per_s / self.bound if gap is None else gap
        unproven = "feasible" if self.interrupted or self.out_of_time else "heuristic"
        return replace(
            placement,
            upper_bound_tokens_per_s=self.bound,
            status="optimal" if gap <= tuning.OPTIMAL_GAP else unproven,
            solve_s=self._seconds(),
            history=tuple(self.history),
            notes={
                "chosen": chosen.name,
                **listed(self.candidates, self.scores),
                "interrupted": self.interrupted,
                **({"moved_bytes": chosen.moved_bytes} if self.previous else {}),
                **({"bounds_by_width": self.bounds} if self.bounds else {}),
                **({"too_large": self.too_large} if self.too_large else {}),
                **survival,
                **({} if self.selected is None else self.selected.notes),
            },
        )
