"""Selection of a placement together with its routing: a race of short simulations on the same requests.

Every candidate, with each routing policy that suits its routes, is an entry. All entries are simulated on the same
requests, the better half goes on to a window of twice the length and new requests, and so on up to the window of the
experiment (successive halving: Jamieson and Talwalkar, AISTATS 2016). It ends early when the best is separated from all
others. Then the best entries and all baselines of the experiment are simulated as the report will be, with its window
and its seed, and a baseline that does better is taken instead.

An entry is better if a larger share of requests is within the objectives; where shares do not differ by more than their
interval, if fewer requests are in the system on average: by Little's law, if they take less time. Intervals are those
of the differences in ten parts of the window.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from helixsim.config.experiment import ResolvedExperiment, SystemSpec
from helixsim.domain.flowplan import FlowPlan
from helixsim.domain.placement import Placement
from helixsim.domain.request import Window
from helixsim.domain.result import FloatArray, RunResult
from helixsim.flow.capacity import CapacityTable
from helixsim.flow.maxflow import max_flow
from helixsim.metrics.latency import request_tpot_ns
from helixsim.metrics.stats import interval_of_batches
from helixsim.metrics.throughput import by_objective
from helixsim.placement.base import Contender
from helixsim.plugins import NoOptions
from helixsim.routing import registry as routing_registry
from helixsim.routing.graph import chains, routing_graph
from helixsim.study.systems import PlacedSystem, simulate_system
from helixsim.units import NS_PER_S

SEED_OFFSET = 2_000_003
"""Entries race on other requests than those of the report, unless the load is a recorded trace."""

LONGEST_NS = 600 * NS_PER_S
"""Longest warm-up and window of the race; the last comparison has those of the report."""

ROUNDS = (0.25, 0.5, 1.0)
"""Share of the longest window in each round."""

FINALISTS = 2
"""Entries that are compared with the baselines under the requests of the report."""

PARTS = 10
"""Parts of a window for the interval of a difference."""

REPLICA_POLICIES = ("earliest_finish", "least_loaded", "flow_weighted")
BRANCH_POLICIES = ("flow_weighted", "earliest_finish")


@dataclass(frozen=True)
class Entry:
    """A placement with its max-flow and its routing; ``is_baseline``: it is another system of the experiment."""

    name: str
    placement: Placement
    plan: FlowPlan
    system: SystemSpec
    is_baseline: bool = False

    @property
    def label(self) -> str:
        """Name and routing, for messages."""
        return f"{self.name}, {self.system.routing}"


@dataclass(frozen=True)
class Score:
    """What a simulation showed, by parts of its window.

    ``good`` and ``decided``: requests that arrived in a part and met all objectives, and all with a known outcome.
    ``in_system``: mean number of requests in the system.
    """

    good: FloatArray
    decided: FloatArray
    in_system: FloatArray
    used: frozenset[str] = frozenset()
    output_tokens_per_s: float = 0.0
    ttft_p95_s: float = 0.0
    tpot_p95_s: float = 0.0

    @property
    def share(self) -> float:
        """Share of requests within the objectives; 0 without any."""
        total = float(self.decided.sum())
        return float(self.good.sum()) / total if total else 0.0

    @property
    def mean_in_system(self) -> float:
        """Mean number of requests in the system."""
        return float(self.in_system.mean())

    def share_exceeds(self, other: Score) -> bool:
        """Whether the share of this one is larger by more than the interval of the difference."""
        total = max(1.0, float(self.decided.sum()) + float(other.decided.sum())) / 2 / len(self.good)
        return _is_above(((self.decided - self.good) - (other.decided - other.good)) / -total)

    def beats(self, other: Score) -> bool:
        """Whether this one has the larger share, or an equal one in less time."""
        return self.share_exceeds(other) or (not other.share_exceeds(self) and self.is_faster(other))

    def is_faster(self, other: Score) -> bool:
        """Whether fewer requests are in the system by more than the interval of the difference."""
        return _is_above(other.in_system - self.in_system)


@dataclass
class Race:
    """Selects a placement for one system (``placement.base.Select``)."""

    experiment: ResolvedExperiment
    system: SystemSpec
    capacity: CapacityTable
    baselines: Callable[[], Sequence[PlacedSystem]] = field(default=tuple)

    def __call__(self, contenders: Sequence[Contender], report: Callable[[str], None]) -> Placement:
        """Return the placement that is selected, with its routing and the explanation in its notes."""
        entries = [entry for contender in contenders for entry in self._entries(contender)]
        rounds: list[dict[str, tuple[Entry, Score]]] = []
        for number, window in enumerate(self._windows()):
            seed = self.experiment.seed + SEED_OFFSET + number
            scores = {}
            for entry in entries:
                report(f"round {number + 1}: {entry.label}")
                scores[entry.label] = self._score(entry, window, seed)
            rounds.append({entry.label: (entry, scores[entry.label]) for entry in entries})
            entries = ranked(entries, scores)
            best = scores[entries[0].label]
            rest = [scores[entry.label] for entry in entries[1:]]
            if all(best.beats(one) for one in rest):
                break
            entries = entries[: max(FINALISTS, -(-len(entries) // 2))]
        chosen, last, fallen = self._final(entries[:FINALISTS], report)
        rounds.append(last)
        score = last[chosen.label][1]
        told = {
            label: _told(*both, number) for number, one in enumerate(rounds, start=1) for label, both in one.items()
        }
        notes: dict[str, Any] = {
            "chosen": chosen.name,
            "race": list(told.values()),
            "idle": self._idle(chosen, rounds),
            "reserve": [node for node in chosen.placement.ranges if node not in score.used],
        }
        if self.system.routing == "auto":
            notes["routing"] = {"policy": chosen.system.routing, "options": _plain(chosen.system.routing_options)}
        if fallen:
            notes["fallback"] = fallen
        return replace(chosen.placement, notes={**chosen.placement.notes, **notes})

    def _entries(self, contender: Contender) -> list[Entry]:
        plan = self._plan(contender.placement)
        if self.system.routing != "auto":
            return [Entry(contender.name, contender.placement, plan, self.system)]
        found = chains(routing_graph(contender.placement, plan))
        policies = BRANCH_POLICIES if found is None else REPLICA_POLICIES[: 1 if len(found) == 1 else None]
        return [
            Entry(
                contender.name,
                contender.placement,
                plan,
                replace(self.system, routing=policy, routing_options=routing_registry.get(policy).Options()),
            )
            for policy in policies
        ]

    def _plan(self, placement: Placement) -> FlowPlan:
        return max_flow(self.system.fleet, placement, self.capacity)

    def _windows(self) -> list[Window]:
        full = self.experiment.workload.window
        duration_ns = LONGEST_NS if full.duration_ns is None else min(full.duration_ns, LONGEST_NS)
        warmup_ns = min(max(full.warmup_ns, duration_ns // 2), LONGEST_NS)
        return [Window(int(share * warmup_ns), int(share * duration_ns), drain=False) for share in ROUNDS]

    def _score(self, entry: Entry, window: Window, seed: int) -> Score:
        placed = PlacedSystem(entry.system, entry.placement, entry.plan)
        return score_of(simulate_system(self.experiment, placed, window=window, seed=seed), self.experiment)

    def _final(
        self, entries: Sequence[Entry], report: Callable[[str], None]
    ) -> tuple[Entry, dict[str, tuple[Entry, Score]], str]:
        """Return the best of the finalists, or the baseline that beats it, all scores, and a sentence on the latter."""
        full = self.experiment.workload.window
        window = replace(full, duration_ns=LONGEST_NS if full.duration_ns is None else full.duration_ns, drain=False)
        others = [
            Entry(
                f"system {placed.system.name}",
                placed.placement,
                self._plan(placed.placement),
                placed.system if self.system.routing == "auto" else self.system,
                is_baseline=True,
            )
            for placed in self.baselines()
        ]
        scores: dict[str, Score] = {}
        for entry in (*entries, *others):
            report(f"as reported: {entry.label}")
            scores[entry.label] = self._score(entry, window, self.experiment.seed)
        final = {entry.label: (entry, scores[entry.label]) for entry in (*entries, *others)}
        chosen = ranked(entries, scores)[0]
        mine = scores[chosen.label]
        for rival in ranked(others, scores):
            theirs = scores[rival.label]
            if theirs.beats(mine):
                text = (
                    f"{rival.label} does better than the best candidate found ({chosen.label}): {theirs.share:.1%} "
                    f"within the objectives against {mine.share:.1%}, {theirs.mean_in_system:.3g} requests in the "
                    f"system against {mine.mean_in_system:.3g}. Its placement is taken."
                )
                return rival, final, text
        return chosen, final, ""

    def _idle(self, chosen: Entry, rounds: Sequence[dict[str, tuple[Entry, Score]]]) -> dict[str, str]:
        """Return why nodes hold no layers: by the best entry with them, beside the chosen one on the same requests."""
        reasons: dict[str, str] = {}
        for node in self.system.fleet.cluster.nodes:
            if node.id in chosen.placement.ranges:
                continue
            reasons[node.id] = "no candidate uses it"
            for one in reversed(rounds):
                holding = [e for e, _ in one.values() if node.id in e.placement.ranges and not e.is_baseline]
                if not holding:
                    continue
                scores = {label: score for label, (_, score) in one.items()}
                best = ranked(holding, scores)[0]
                theirs, mine = scores[best.label], scores.get(chosen.label, max(scores.values(), key=_order))
                what = "makes it worse" if mine.beats(theirs) else "not needed"
                reasons[node.id] = (
                    f"{what}: with it {theirs.share:.1%} within the objectives and {theirs.mean_in_system:.3g} "
                    f"requests in the system ({best.label}), without it {mine.share:.1%} and {mine.mean_in_system:.3g}"
                )
                break
        return reasons


def ranked(entries: Sequence[Entry], scores: dict[str, Score]) -> list[Entry]:
    """Return entries, the best first: those that equal the largest share by their time, then the others by share."""
    if not entries:
        return []
    top = max((scores[entry.label] for entry in entries), key=_order)

    def key(entry: Entry) -> tuple[float, float]:
        score = scores[entry.label]
        if top.share_exceeds(score):
            return 1.0 - score.share, score.mean_in_system
        return 0.0, score.mean_in_system

    return sorted(entries, key=key)


def score_of(run: RunResult, experiment: ResolvedExperiment) -> Score:
    """Return the score of a run by the objectives of an experiment.

    A request that has no first token and is overdue has missed; one that is still decoding is not counted.
    """
    edges = np.linspace(run.window_start_ns, run.window_end_ns, PARTS + 1)
    good, decided = np.zeros(PARTS), np.zeros(PARTS)
    for _, part, slo in by_objective(run, experiment.slo):
        columns = part.requests
        arrival, first, end = columns.arrival_ns, columns.first_token_ns, run.window_end_ns
        finished = (columns.finish_ns >= 0) & (columns.finish_ns <= end)
        within = finished.copy()
        missed = np.zeros(len(arrival), dtype=bool)
        if slo.ttft_s is not None:
            limit_ns = slo.ttft_s * NS_PER_S
            late = np.where((first >= 0) & (first <= end), first, end) - arrival > limit_ns
            missed |= late
        if slo.tpot_s is not None:
            tpot_ns = request_tpot_ns(part, np.arange(len(arrival)))
            missed |= finished & (tpot_ns > slo.tpot_s * NS_PER_S)
        if slo.e2el_s is not None:
            missed |= np.where(finished, columns.finish_ns, end) - arrival > slo.e2el_s * NS_PER_S
        within &= ~missed
        known = within | missed
        good += np.histogram(arrival[within], edges)[0]
        decided += np.histogram(arrival[known], edges)[0]
    series = run.series
    inside = (series.time_ns >= run.window_start_ns) & (series.time_ns <= run.window_end_ns)
    times, numbers = series.time_ns[inside], (series.waiting + series.running)[inside].astype(float)
    places = np.clip(np.searchsorted(edges, times, side="right") - 1, 0, PARTS - 1)
    in_system = np.array(
        [numbers[places == part].mean() if (places == part).any() else np.nan for part in range(PARTS)]
    )
    in_system = np.where(np.isnan(in_system), np.nanmean(in_system), in_system)
    tokens = series.output_tokens[inside]
    done = np.flatnonzero((run.requests.finish_ns >= 0) & (run.requests.arrival_ns >= run.window_start_ns))
    ttft_s = (run.requests.first_token_ns - run.requests.arrival_ns)[done] / NS_PER_S
    tpot_s = request_tpot_ns(run, done) / NS_PER_S
    worked = run.nodes.prompt_tokens + run.nodes.decode_tokens > 0
    return Score(
        good,
        decided,
        in_system,
        used=frozenset(name for name, at_work in zip(run.nodes.node_id, worked, strict=True) if at_work),
        output_tokens_per_s=float(tokens[-1] - tokens[0]) * NS_PER_S / max(1, int(times[-1] - times[0])),
        ttft_p95_s=float(np.percentile(ttft_s, 95)) if len(ttft_s) else float("nan"),
        tpot_p95_s=float(np.nanpercentile(tpot_s, 95)) if np.isfinite(tpot_s).any() else float("nan"),
    )


def _order(score: Score) -> tuple[float, float]:
    return score.share, -score.mean_in_system


def _is_above(differences: FloatArray) -> bool:
    """Whether the mean of these differences is above zero by more than its 95 % interval."""
    interval = interval_of_batches(differences, floor=None)
    return float(differences.mean()) > 0 and (interval is None or interval.low > 0)


def _told(entry: Entry, score: Score, round_number: int) -> dict[str, Any]:
    return {
        "name": entry.name,
        "routing": entry.system.routing,
        "round": round_number,
        "share": score.share,
        "in_system": score.mean_in_system,
        "output_tokens_per_s": score.output_tokens_per_s,
        "ttft_p95_s": score.ttft_p95_s,
        "tpot_p95_s": score.tpot_p95_s,
        "nodes": len(entry.placement.ranges),
        "max_flow_tokens_per_s": entry.placement.objective_tokens_per_s,
        "is_baseline": entry.is_baseline,
    }


def _plain(options: Any) -> dict[str, Any]:
    return {} if isinstance(options, NoOptions) else asdict(options)
