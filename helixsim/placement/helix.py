"""Helix's placement: search for large max-flow, then choose among the best by simulation.

Max-flow alone rewards deep chains: it knows neither latency nor KV memory. So the search does not stop at the largest
flow. It also finds, for smaller and smaller flows, the chain with the fewest stages, and a short simulation of the
actual workload (the *judge*) picks from this frontier and the heuristics.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from helixsim.domain.placement import LayerRange, Placement
from helixsim.errors import ConfigError, InfeasibleError
from helixsim.flow.capacity import upper_bound_share
from helixsim.flow.maxflow import max_flow
from helixsim.placement import homogeneous, petals, separate, swarm
from helixsim.placement.base import PlacementProblem
from helixsim.placement.check import check
from helixsim.placement.stages import Chain, Group, groups_of, hops, lay_out

_NEXT_SHARE = 0.95
"""Each step of the frontier asks for this share of the flow of the one before."""

_LEAST_SHARE = 0.4
"""The frontier ends at this share of the largest flow."""

_MOST_HEURISTICS = 2
"""Heuristic placements that go to the judge beside the frontier."""

_OPTIMAL_GAP = 1e-4


@dataclass(frozen=True, slots=True)
class HelixOptions:
    """Options of ``helix``.

    Parameters
    ----------
    max_hops
        Most nodes on a route; None: no limit.
    time_limit_s
        Safety net [s]; on large fleets the best placement found by then is used. Results repeat only if it is not hit.
    candidates
        How many placements the judge simulates.
    select
        ``simulate``: the judge's highest score wins (the largest max-flow where there is no judge); ``flow``: the
        largest max-flow.
    method
        ``patterns``: stage patterns. ``exact``: then the per-node program, at most 10 nodes. ``auto``: ``patterns``.
    partial_inference
        Let candidates use it: a request may then enter a node in the middle of its layers.
    """

    max_hops: int | None = None
    time_limit_s: float = 30.0
    candidates: int = 8
    select: Literal["simulate", "flow"] = "simulate"
    method: Literal["auto", "patterns", "exact"] = "auto"
    partial_inference: bool = False


class Helix:
    """Placement by max-flow search in the spirit of Helix (ASPLOS'25), not by its per-node program.

    The paper solves one mixed-integer program over all nodes for hours. Here interchangeable nodes are counted, not
    named, which finds larger flows in seconds; see ``patterns`` and ``regions``.
    """

    summary: ClassVar[str] = "largest max-flow, or the best of its frontier by simulation (Helix)"
    Options: ClassVar[type[HelixOptions]] = HelixOptions

    def solve(self, problem: PlacementProblem, options: HelixOptions) -> Placement:
        """Return the placement.

        Raises
        ------
        ConfigError
            If an option is out of range.
        InfeasibleError
            If no placement was found.
        """
        for name, value in (("max_hops", options.max_hops), ("candidates", options.candidates)):
            if value is not None and value < 1:
                raise ConfigError(f"helix: {name} is {value}, allowed: 1 or more")
        if options.time_limit_s <= 0:
            raise ConfigError(f"helix: time_limit_s is {options.time_limit_s:g}, allowed: more than 0")
        return _Search(problem, options).run()


@dataclass(frozen=True, slots=True)
class _Candidate:
    name: str
    placement: Placement
    max_hops: int
    mean_hops: float
    is_searched: bool

    @property
    def flow_tokens_per_s(self) -> float:
        return self.placement.objective_tokens_per_s


class _Search:
    """One run of the strategy: collects candidates, keeps the best flow and the bound, then chooses."""

    def __init__(self, problem: PlacementProblem, options: HelixOptions) -> None:
        self.problem = problem
        self.options = options
        self.started = time.perf_counter()
        self.candidates: list[_Candidate] = []
        self.best = 0.0
        self.bound = upper_bound_share(problem.fleet, problem.capacity)
        self.history: list[tuple[float, float, float]] = []
        self.scores: dict[str, float] = {}
        self.interrupted = False

    def run(self) -> Placement:
        """Search and choose. Ctrl-C ends the search with what it has."""
        groups = groups_of(self.problem)
        steps: list[Callable[[], None]] = [
            self._add_heuristics,
            lambda: self._add_chains(groups),
            self._add_exact,
            self._tighten_bound,
            self._judge,
        ]
        try:
            for step in steps:
                step()
        except KeyboardInterrupt:
            if not self.candidates:
                raise
            self.interrupted = True
        if not self.candidates:
            raise InfeasibleError(self._why_none(groups))
        return self._outcome()

    def _seconds(self) -> float:
        return time.perf_counter() - self.started

    def _time_left_s(self) -> float:
        return self.options.time_limit_s - self._seconds()

    def _report(self, what: str) -> None:
        self.problem.progress(what, self._seconds(), self.best, self.bound)

    def _add(
        self,
        name: str,
        ranges: Mapping[str, LayerRange],
        *,
        is_searched: bool,
        partial: bool = False,
        pipelines: Mapping[str, int] | None = None,
    ) -> None:
        """Evaluate a placement exactly and keep it if it carries anything within the hop limit."""
        order = self.problem.fleet.cluster.index
        placement = Placement(
            strategy="helix",
            num_layers=self.problem.fleet.model.num_layers,
            ranges=dict(sorted(ranges.items(), key=lambda item: order[item[0]])),
            partial_inference=partial,
            pipelines=dict(pipelines or {}),
        )
        try:
            check(self.problem.fleet, placement)
        except InfeasibleError:
            return
        plan = max_flow(self.problem.fleet, placement, self.problem.capacity, balanced=False)
        flow = plan.max_flow_tokens_per_s
        if flow <= 0 or (self.options.max_hops is not None and plan.max_hops > self.options.max_hops):
            return
        placement = replace(placement, objective_tokens_per_s=flow)
        self.candidates.append(_Candidate(name, placement, plan.max_hops, plan.mean_hops, is_searched))
        if flow > self.best:
            self.best = flow
            self.history.append((self._seconds(), flow, self.bound))
        self._report(name)

    def _add_heuristics(self) -> None:
        partial = self.options.partial_inference
        attempts: list[tuple[str, Callable[[], Placement]]] = [
            ("swarm", lambda: swarm.Swarm().solve(self.problem, swarm.SwarmOptions())),
            ("petals", lambda: petals.Petals().solve(self.problem, petals.PetalsOptions(partial_inference=partial))),
            ("separate", lambda: separate.Separate().solve(self.problem, separate.SeparateOptions())),
            ("homogeneous", lambda: homogeneous.Homogeneous().solve(self.problem, homogeneous.HomogeneousOptions())),
        ]
        for name, attempt in attempts:
            try:
                made = attempt()
            except InfeasibleError:
                continue
            self._add(name, made.ranges, is_searched=False, partial=made.partial_inference, pipelines=made.pipelines)

    def _add_chains(self, groups: tuple[Group, ...]) -> None:
        """Add the chains with the largest flow, then shorter ones with less."""
        from helixsim.placement.regions import best_chains  # the solver takes time to load; options need it not

        if not groups:
            return

        def add(name: str, blocks: Sequence[Chain]) -> None:
            self._add(name, lay_out(groups, blocks), is_searched=True)

        chains = best_chains(
            self.problem, groups, self.options.max_hops, self._time_left_s,
            lambda name, found: add(name, [chain.blocks for chain in found]),
        )  # fmt: skip
        if not chains:
            return
        best = [chain.blocks for chain in chains]
        shallowest = max(map(hops, best))
        add(f"blocks-{shallowest}", best)
        share = _NEXT_SHARE
        while share >= _LEAST_SHARE and self._time_left_s() > 0:
            found = [chain.shorter(share, self.options.max_hops, self._time_left_s) for chain in chains]
            best = [now or before for now, before in zip(found, best, strict=True)]
            depth = max(map(hops, best))
            if depth < shallowest:
                add(f"blocks-{depth}", best)
                shallowest = depth
            share *= _NEXT_SHARE

    def _add_exact(self) -> None:
        if self.options.method != "exact":
            return
        from helixsim.placement import milp

        nodes = len(self.problem.fleet.cluster.nodes)
        if nodes > milp.MOST_NODES:
            raise ConfigError(f"helix: method exact takes at most {milp.MOST_NODES} nodes, the cluster has {nodes}")
        plain = [c for c in self.candidates if not c.placement.partial_inference and not c.placement.pipelines]
        start = max(plain, key=lambda c: c.flow_tokens_per_s, default=None)
        result = milp.solve_exact(
            self.problem,
            self.bound,
            start=start.placement.ranges if start else None,
            max_hops=self.options.max_hops,
            time_limit_s=max(1.0, self._time_left_s()),
            progress=lambda _s, objective, bound: self.problem.progress(
                "exact", self._seconds(), max(objective, self.best), min(bound, self.bound)
            ),
        )
        if result.is_optimal and self.options.max_hops is None:
            self.bound = max(result.bound_tokens_per_s, self.best)
        if result.ranges:
            self._add("exact", result.ranges, is_searched=True)

    def _tighten_bound(self) -> None:
        if self.best and self.bound > self.best * (1 + _OPTIMAL_GAP):
            from helixsim.placement.bounds import configuration_bound

            bound = configuration_bound(self.problem.fleet, self.problem.capacity, self.best, self._time_left_s)
            self.bound = min(self.bound, max(bound, self.best))
            self.history.append((self._seconds(), self.best, self.bound))
            self._report("bound")

    def _finalists(self) -> list[_Candidate]:
        """Return who goes to the judge: the best heuristics, and the frontier of flow against hops, thinned evenly."""
        heuristics = [c for c in self.candidates if not c.is_searched]
        heuristics.sort(key=lambda c: (-c.flow_tokens_per_s, c.mean_hops))
        frontier: list[_Candidate] = []
        for candidate in sorted(self.candidates, key=lambda c: (-c.flow_tokens_per_s, c.max_hops)):
            if candidate.is_searched and (not frontier or candidate.max_hops < frontier[-1].max_hops):
                frontier.append(candidate)
        kept = heuristics[: min(_MOST_HEURISTICS, self.options.candidates - 1 if frontier else self.options.candidates)]
        room = self.options.candidates - len(kept)
        if len(frontier) > room:
            steps = max(1, room - 1)
            frontier = [frontier[number * (len(frontier) - 1) // steps] for number in range(room)]
        return kept + frontier

    def _judge(self) -> None:
        """Score the finalists by simulation, unless max-flow decides."""
        judge = self.problem.judge
        if judge is None or self.options.select == "flow":
            return
        for candidate in self._finalists():
            self.scores[candidate.name] = judge(candidate.placement)
            self._report(f"judged {candidate.name}")

    def _outcome(self) -> Placement:
        def merit(candidate: _Candidate) -> tuple[float, float, float]:
            score = self.scores.get(candidate.name, float("-inf"))
            return (score, candidate.flow_tokens_per_s, -candidate.mean_hops)

        chosen = max(self.candidates, key=merit)
        gap = 1.0 - chosen.flow_tokens_per_s / self.bound
        stopped = self.interrupted or self._time_left_s() <= 0
        listed: list[dict[str, Any]] = [
            {
                "name": candidate.name,
                "hops": candidate.max_hops,
                "max_flow_tokens_per_s": candidate.flow_tokens_per_s,
                "score": self.scores.get(candidate.name),
            }
            for candidate in self.candidates
        ]
        return replace(
            chosen.placement,
            upper_bound_tokens_per_s=self.bound,
            status="optimal" if gap <= _OPTIMAL_GAP else "feasible" if stopped else "heuristic",
            solve_s=self._seconds(),
            history=tuple(self.history),
            notes={"chosen": chosen.name, "candidates": listed, "interrupted": self.interrupted},
        )

    def _why_none(self, groups: tuple[Group, ...]) -> str:
        model = self.problem.fleet.model
        room = sum(len(group.nodes) * len(group.tokens_per_s) for group in groups)
        limit = f" within {self.options.max_hops} hops" if self.options.max_hops is not None else ""
        return (
            f"helix: no placement of the {model.num_layers} layers of {model.name}{limit}; "
            f"all {len(self.problem.fleet.cluster.nodes)} nodes together hold {room} layers"
        )
