"""Entries of a race, the trials in which they were simulated on the same requests, and what these explain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from helixsim.config.experiment import SystemSpec
from helixsim.domain.cluster import Deployment, Node
from helixsim.domain.flowplan import FlowPlan
from helixsim.domain.placement import Placement
from helixsim.domain.request import Slo, Window
from helixsim.flow.capacity import CapacityTable, share_bound
from helixsim.metrics.criteria import race_steps, ranked
from helixsim.metrics.score import Score
from helixsim.placement.heuristics import routing_of_method
from helixsim.placement.select import routes_of
from helixsim.plugins import NoOptions
from helixsim.routing import registry as routing_registry
from helixsim.routing.graph import chains, routing_graph
from helixsim.study.race_runs import Shown


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


def with_policy(entry: Entry, policy: str, **options: Any) -> Entry:
    """Return an entry with a routing policy."""
    chosen = routing_registry.get(policy).Options(**options)
    return replace(entry, system=entry.system.with_routing(policy, chosen))


def promising_policy(placement: Placement, plan: FlowPlan) -> str:
    """Return the routing policy that is tried first with a placement."""
    branches = chains(routing_graph(placement, plan)) is None and len(set(placement.pipelines.values())) < 2
    return "flow_weighted" if branches else "earliest_finish"


def kinds_first(entries: Sequence[Entry]) -> list[Entry]:
    """Return entries with the first one of each kind of routes before the others, which a round may leave out.

    A placement with the routing of its method is a kind of its own.
    """

    def kind(entry: Entry) -> object:
        is_of_method = entry.system.routing == routing_of_method(entry.name, entry.placement)
        return routes_of(entry.placement), is_of_method

    first = {kind(entry): entry for entry in reversed(entries)}
    leading = {entry.label for entry in first.values()}
    return sorted(entries, key=lambda entry: entry.label not in leading)


@dataclass
class Trial:
    """Entries that were simulated on the same requests, with the number of simulated events.

    ``is_open``: whether these arrive at their own times; otherwise the entries are saturated.
    """

    window: Window
    seed: int
    slo: Slo
    is_open: bool = True
    entries: dict[str, Entry] = field(default_factory=dict)
    scores: dict[str, Score] = field(default_factory=dict)
    events: int = 0

    def add(self, entry: Entry, shown: Shown) -> None:
        """Add an entry that was simulated."""
        self.events += shown.events
        self.entries[entry.label], self.scores[entry.label] = entry, shown.score

    def best(self, *, baselines: bool = False) -> list[Entry]:
        """Return the entries, or the baselines among them, the best first."""
        return self.ranked([entry for entry in self.entries.values() if entry.is_baseline == baselines])

    def ranked(self, entries: Sequence[Entry]) -> list[Entry]:
        """Return entries, the best first, by the criteria of the verdict; equal ones in the order given."""
        labels = [entry.label for entry in entries]
        scores = {label: self.scores[label] for label in labels}
        chain = race_steps(scores, has_slo=self.slo.is_stated, is_open=self.is_open)
        return [self.entries[label] for label in ranked(labels, scores, chain)]

    def distinct(self) -> list[Entry]:
        """Return the entries that are no baselines, the best first; of those that did exactly the same, the first.

        Nodes of the others served nothing, or their policies had nothing to choose.
        """
        found: dict[tuple[object, ...], Entry] = {}
        for entry in self.best():
            score = self.scores[entry.label]
            roles = tuple(entry.placement.roles.items())  # nodes for both phases may get prompts in a longer trial
            found.setdefault((roles, *score.good, *score.decided, *score.log_latency), entry)
        return list(found.values())

    @property
    def best_score(self) -> Score:
        """What the best entry showed."""
        return self.scores[self.best()[0].label]

    def beats(self, one: Entry, other: Entry) -> bool:
        """Return whether one entry is better than another."""
        mine, theirs = self.scores[one.label], self.scores[other.label]
        if self.is_open:
            return mine.beats(theirs)
        return self.ranked([other, one])[0] is one

    def figures(self, score: Score) -> str:
        """Return the figures that decide first, as text."""
        if self.is_open:
            return f"{score.share:.1%} within the objectives and a latency of {score.latency_s:.3g} s"
        if self.slo.is_stated:
            return f"{score.goodput_per_s:.3g} requests/s within the objectives"
        return f"{score.output_tokens_per_s:.4g} output tokens/s and a latency of {score.latency_s:.3g} s"


def explained(chosen: Entry, trials: Sequence[Trial], capacities: Mapping[str, float]) -> dict[str, Any]:
    """Return the notes on a selection; the last trial is that with the requests of the report.

    ``capacities``: requests/s that each placement can serve by the estimate, by its name.
    """
    last = trials[-1]
    notes: dict[str, Any] = {
        "race": [
            {**_told(entry, trial.scores[label], number), "capacity_per_s": capacities[entry.name]}
            for number, trial in enumerate(trials, start=1)
            for label, entry in trial.entries.items()
            if not any(label in later.entries for later in trials[number:])
        ],
        "saturated": not last.is_open,
        "idle": _idle(chosen, trials),
        "reserve": [node for node in chosen.placement.ranges if node not in last.scores[chosen.label].used],
    }
    if before := [trial.scores[chosen.label] for trial in trials[:-1] if chosen.label in trial.scores]:
        notes["trial"] = _figures(before[-1])
    return notes


def worth_of_one_more(fleet: Deployment, capacity: CapacityTable) -> dict[str, float]:
    """Return by how much one more node of each type raises the bound on the max-flow, as a share of it."""
    counts = Counter(capacity.of(node.id) for node in fleet.cluster.nodes)
    bound = share_bound(counts, fleet.model.num_layers)
    return {
        kind: share_bound(counts + Counter({capacity.tables[kind]: 1}), fleet.model.num_layers) / bound - 1.0
        for kind in dict.fromkeys(capacity.kinds[node.id] for node in fleet.cluster.nodes)
        if capacity.tables[kind]
    }


def _idle(chosen: Entry, trials: Sequence[Trial]) -> dict[str, str]:
    """Return why nodes hold no layers: by the best entry with them, beside the chosen one on the same requests."""
    reasons: dict[str, str] = {}

    def uses(entry: Entry, node: Node) -> bool:
        """Return whether an entry uses a node, or, with other nodes on its machine, that machine."""
        cluster = entry.system.fleet.cluster
        if node.id in cluster.index:
            return node.id in entry.placement.ranges
        machine = node.machine or node.id
        return any(cluster.machine_of.get(used, used) == machine for used in entry.placement.ranges)

    for node in chosen.system.fleet.cluster.nodes:
        if node.id in chosen.placement.ranges:
            continue
        reasons[node.id] = "no candidate uses it"
        for trial in reversed(trials):
            best = [entry for entry in trial.best() if uses(entry, node)]
            if not best or chosen.label not in trial.scores:
                continue
            theirs, mine = trial.scores[best[0].label], trial.scores[chosen.label]
            what = "makes it worse" if trial.beats(chosen, best[0]) else "not needed"
            reasons[node.id] = (
                f"{what}: with it {trial.figures(theirs)} ({best[0].label}), without it {trial.figures(mine)}"
            )
            break
    return reasons


def _told(entry: Entry, score: Score, trial_number: int) -> dict[str, Any]:
    return {
        "name": entry.name,
        "routing": entry.system.routing,
        "round": trial_number,
        **_figures(score),
        "nodes": len(entry.placement.ranges),
        "max_flow_tokens_per_s": entry.placement.objective_tokens_per_s,
        "is_baseline": entry.is_baseline,
    }


def _figures(score: Score) -> dict[str, Any]:
    return {
        "share": score.share,
        "latency_s": score.latency_s,
        "ttft_s": list(score.ttft_s),
        "tpot_s": list(score.tpot_s),
        "output_tokens_per_s": score.output_tokens_per_s,
    }


def plain(options: Any) -> dict[str, Any]:
    """Return options of a routing policy as JSON values."""
    return {} if isinstance(options, NoOptions) else asdict(options)
