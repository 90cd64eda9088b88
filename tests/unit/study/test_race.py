"""The race selects the best placement with its routing, falls back to a better baseline, and says why."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import helixsim
from helixsim.config.experiment import ResolvedExperiment
from helixsim.domain.placement import LayerRange, Placement
from helixsim.domain.request import Slo
from helixsim.errors import SimulationError
from helixsim.flow.capacity import upper_bound_share
from helixsim.flow.operating import operating_point
from helixsim.metrics.criteria import race_steps
from helixsim.metrics.criteria import ranked as ranked_by
from helixsim.metrics.score import PARTS, Score, of_summary, score_of
from helixsim.metrics.throughput import throughput
from helixsim.placement import heuristics
from helixsim.placement.base import Contender
from helixsim.placement.select import routes_of
from helixsim.report.selection import race_rows, selection_sentences
from helixsim.routing import registry as routing_registry
from helixsim.runtime.pool import Processes
from helixsim.study.evaluator import Evaluator
from helixsim.study.finished import SimulatedStore, simulated
from helixsim.study.placements import placement_store
from helixsim.study.placing import _rivals, is_raced, place_system, routed
from helixsim.study.race import LEAST_TRIED, Race
from helixsim.study.race_budget import Budget
from helixsim.study.race_load import RaceLoad, race_load
from helixsim.study.race_runs import EXPECTATION_EVENTS, RaceRun, simulate_run
from helixsim.study.systems import capacity_table, operating_load, simulate_system, summary_of
from helixsim.study.trial_notes import Entry, Trial, kinds_first, with_policy, worth_of_one_more
from helixsim.units import NS_PER_S, number

EXPERIMENT = """\
schema: 1
name: two-sites
model: llama-3.1-8b
cluster:
  coordinator: {region: here}
  nodes:
    - {gpu: l40s, count: 1, region: here}
    - {gpu: t4, count: 4, region: far}
  network:
    intra_region: {bandwidth: 10 Gbit/s, latency: 0.1 ms}
    inter_region: {bandwidth: 1 Gbit/s, latency: 40 ms}
workload:
  lengths: {distribution: fixed, prompt_tokens: 400, output_tokens: 60}
  arrivals: {process: poisson, rate: 2 /s}
  warmup: 20 s
  duration: 40 s
engine: vllm-1
systems:
  - {name: helix, placement: {strategy: helix, candidates: 3, time_limit_s: 20}}
  - {name: replicas, placement: replicas, routing: random}
slo: {ttft: 1 s, tpot: 40 ms}
"""


def loaded(tmp_path: Path, *overrides: str) -> ResolvedExperiment:
    path = tmp_path / "exp.yaml"
    path.write_text(EXPERIMENT)
    return helixsim.load_experiment(path, list(overrides))


@pytest.fixture(scope="module")
def placed(tmp_path_factory):
    experiment = loaded(tmp_path_factory.mktemp("race"))
    return experiment, place_system(experiment, experiment.systems[0])


def score(share: float, latency_s: float, noise: float = 0.0) -> Score:
    wave = noise * np.tile([1.0, -1.0], PARTS // 2)
    return Score(100 * share + 10 * wave, np.full(PARTS, 100.0), np.log(latency_s) + wave)


def ranked(scores: dict[str, Score], *, by_cost: bool = False) -> list[str]:
    given = {name: replace(one, cost_first=by_cost) for name, one in scores.items()}
    return ranked_by(list(given), given, race_steps(given, has_slo=True))


def scored(experiment: ResolvedExperiment, system, run) -> Score:
    return score_of(run, experiment.slo, experiment.fleet, system.placement)


def test_the_plan_keeps_to_the_objectives_where_the_whole_fleet_does_not(placed) -> None:
    """A T4 needs more than 40 ms for a token of 8 B parameters, so that nothing may be sent there."""
    experiment, system = placed
    run = simulate_system(experiment, system, seed=experiment.seed)
    assert scored(experiment, system, run).share == 1.0
    notes = system.placement.notes
    assert notes["routing"]["policy"] == system.system.routing != "auto"
    unused = set(notes["idle"]) | set(notes["reserve"])
    assert {node.id for node in experiment.fleet.cluster.nodes if node.gpu == "t4"} <= unused
    assert all(reason for reason in notes["idle"].values())


def test_no_entry_of_the_last_round_beats_the_chosen_one(placed) -> None:
    _, system = placed
    race = system.placement.notes["race"]
    last = [entry for entry in race if entry["round"] == max(one["round"] for one in race)]
    assert [entry["name"] for entry in last if entry["is_baseline"]] == ["system replicas"]
    (chosen,) = [
        entry
        for entry in last
        if (entry["name"], entry["routing"]) == (system.placement.notes["chosen"], system.system.routing)
    ]
    assert chosen["share"] == max(entry["share"] for entry in last)


def test_the_selection_is_told_in_a_table_and_sentences(placed) -> None:
    _, system = placed
    notes = system.placement.notes
    sentences = " ".join(selection_sentences(notes))
    assert f"{notes['chosen']} with routing {system.system.routing}" in sentences
    for node in (*notes["idle"], *notes["reserve"]):
        assert node in sentences
    rows = race_rows(notes)
    assert len(rows) == min(12, len(notes["race"]))
    rounds = ["report", "2", "1"]
    assert [row[-1] for row in rows] == sorted((row[-1] for row in rows), key=rounds.index)


def race_of(experiment: ResolvedExperiment, contenders, baselines=()):
    system = experiment.systems[0]
    race = Race(experiment, system, capacity_table(experiment, system), lambda: baselines)
    return race([Contender(name, placement) for name, placement in contenders], lambda _text: None)


def test_a_baseline_that_beats_all_candidates_is_taken_with_its_routing(tmp_path) -> None:
    good = loaded(tmp_path, "systems.1.routing=earliest_finish")
    baseline = place_system(good, good.systems[1])
    far = {node: held for node, held in baseline.placement.ranges.items() if node.startswith("t4")}
    numbers = {node: number for node, number in baseline.placement.pipelines.items() if node in far}
    bad = replace(baseline.placement, ranges=far, pipelines=numbers)
    found = race_of(good, [("only far", bad)], [baseline])
    assert found.ranges == baseline.placement.ranges
    assert found.notes["routing"]["policy"] == "earliest_finish"
    assert found.notes["fallback"].startswith("system replicas, earliest_finish does better than the best candidate")
    assert "A baseline is taken" in " ".join(selection_sentences(found.notes))
    kept = race_of(good, [("only far", bad), ("all", baseline.placement)], [baseline])
    assert "fallback" not in kept.notes


@pytest.mark.parametrize(
    "limit", ["max_hops: 2", "exclude: [t4-0]", "max_layers: {t4: 20}", "pinned: {l40s-0: [0, 32]}"]
)
def test_baselines_need_not_keep_to_limits_of_the_user_and_are_no_rivals_then(tmp_path, limit) -> None:
    experiment = loaded(tmp_path, f"systems.0.placement={{strategy: helix, {limit}}}")
    assert _rivals(experiment, experiment.systems[0]) == ()
    free = loaded(tmp_path)
    assert [rival.name for rival in _rivals(free, free.systems[0]) or ()] == ["replicas"]


def test_a_baseline_that_is_taken_is_listed_with_the_candidates(tmp_path, monkeypatch) -> None:
    experiment = loaded(tmp_path)
    baseline = place_system(experiment, experiment.systems[1]).placement
    taken = replace(baseline, notes={"chosen": "system replicas", "fallback": "it is better"})
    monkeypatch.setattr(Race, "__call__", lambda *_: taken)
    placed = place_system(experiment, experiment.systems[0])
    names = [entry["name"] for entry in placed.placement.notes["candidates"]]
    assert names.count(placed.placement.notes["chosen"]) == 1
    assert placed.placement.strategy == "helix"
    assert placed.placement.ranges == baseline.ranges


def test_a_routing_of_the_user_is_kept(tmp_path) -> None:
    experiment = loaded(tmp_path, "systems.0.routing=random")
    system = place_system(experiment, experiment.systems[0])
    assert system.system.routing == "random"
    assert {entry["routing"] for entry in system.placement.notes["race"]} == {"random"}
    assert "routing" not in system.placement.notes


def test_auto_is_the_default_of_helix_alone_and_resolves_without_a_race(tmp_path) -> None:
    closed = "workload.arrivals={process: closed_loop, concurrency: 4}"
    experiment = loaded(tmp_path, "systems.1={name: replicas, placement: replicas}", closed)
    helix, replicas = experiment.systems
    assert (helix.routing, replicas.routing) == ("auto", "flow_weighted")
    assert _rivals(experiment, helix) is None  # no rate, and not saturated
    assert routed(helix, None).routing == "flow_weighted"
    assert routed(replace(replicas, routing="auto"), None).routing == "earliest_finish"


@pytest.mark.parametrize(
    ("override", "has_race"),
    [
        ("systems.0.placement={strategy: helix, criterion: balanced}", False),
        ("systems.0.placement={strategy: helix, criterion: goodput}", True),
        ("systems.0.placement={strategy: helix, criterion: cost}", True),
        ("slo={}", True),
        ("workload.arrivals={process: closed_loop, concurrency: 4}", False),
        ("workload.arrivals={process: saturate}", True),
    ],
)
def test_a_race_needs_a_rate_or_saturation_and_the_criterion(tmp_path, override, has_race) -> None:
    experiment = loaded(tmp_path, override)
    assert (_rivals(experiment, experiment.systems[0]) is not None) == has_race
    fixed = loaded(tmp_path, override, "systems.0.routing=flow_weighted")
    assert (_rivals(fixed, fixed.systems[0]) is not None) == (has_race and experiment.slo.is_stated)
    limited = loaded(tmp_path, override, "systems.0.placement={strategy: helix, criterion: latency}")
    assert _rivals(limited, limited.systems[0]) is None


@pytest.mark.slow
def test_under_saturation_no_simple_plan_serves_more_tokens(tmp_path) -> None:
    """The criterion is the throughput, whatever it costs in latency, and the T4 are not left idle."""
    experiment = loaded(tmp_path, "workload.arrivals={process: saturate}", "slo={}")
    system = place_system(experiment, experiment.systems[0])
    notes = system.placement.notes
    last = [one for one in notes["race"] if one["round"] == max(entry["round"] for entry in notes["race"])]
    served = {(one["name"], one["routing"]): one["output_tokens_per_s"] for one in last}
    assert served[notes["chosen"], system.system.routing] >= 0.98 * max(served.values())
    assert ("system replicas", "random") in served
    assert max(served.values()) > served["system replicas", "random"]
    assert race_rows(notes)[0][-2] == number(max(served.values()))
    assert system.placement.ranges.keys() > {"l40s-0"}


def test_of_a_saturated_load_the_best_estimate_is_the_rate_and_requests_in_flight_are_rate_times_residence(
    tmp_path,
) -> None:
    experiment = loaded(tmp_path, "workload.arrivals={process: saturate}", "slo={}")
    system = experiment.systems[1]
    placement = place_system(experiment, system).placement
    evaluator = Evaluator(experiment, system, capacity_table(experiment, system))
    load = race_load(evaluator, [Contender("all", placement)])
    point = operating_point(system.fleet, placement, operating_load(experiment, system))
    assert not load.is_open
    assert load.rate_rps * load.residence_s == pytest.approx(point.requests)
    assert load.rate_rps * 60 == pytest.approx(point.output_tokens_per_s)
    assert [window.duration_ns / NS_PER_S for window in load.windows(experiment.workload.window)] == [10, 20]
    assert race_load(evaluator, []) == RaceLoad(False, None, None)


def test_what_a_saturated_trial_ranks_by() -> None:
    """Tokens/s come first, and with objectives the requests within them per second; at a rate the latency."""
    few = replace(score(1.0, 1), output_tokens=np.full(PARTS, 10.0))
    many = replace(score(0.5, 9), output_tokens=np.full(PARTS, 11.0))
    scores = {"few": few, "many": many}
    assert ranked_by(list(scores), scores, race_steps(scores, has_slo=False, is_open=False)) == ["many", "few"]
    assert ranked_by(list(scores), scores, race_steps(scores, has_slo=True, is_open=False)) == ["few", "many"]
    assert ranked_by(list(scores), scores, race_steps(scores, has_slo=False)) == ["few", "many"]
    noise = np.tile([5.0, -5.0], PARTS // 2)  # they cannot be told apart, but one showed a tenth more
    scores["many"] = replace(many, output_tokens=many.output_tokens + noise)
    assert ranked_by(list(scores), scores, race_steps(scores, has_slo=False, is_open=False)) == ["many", "few"]
    scores["many"] = replace(many, output_tokens=10.1 + noise)
    assert ranked_by(list(scores), scores, race_steps(scores, has_slo=False, is_open=False)) == ["few", "many"]


@pytest.mark.slow
def test_a_run_shares_the_race_of_helix_alone(tmp_path) -> None:
    experiment = loaded(tmp_path)
    assert [is_raced(experiment, system) for system in experiment.systems] == [True, False]


def test_a_kept_placement_depends_on_objectives_and_rivals(tmp_path, monkeypatch) -> None:
    store = placement_store(tmp_path / "kept")
    made = []

    def select(self, contenders, _report):
        made.append(self.experiment.slo)
        return contenders[0].placement

    monkeypatch.setattr(Race, "__call__", select)
    for overrides in ((), ("slo.ttft=2 s",), ("systems.1.routing=least_loaded",)):
        experiment = loaded(tmp_path, *overrides)
        before = len(made)
        for _ in range(2):
            place_system(experiment, experiment.systems[0], store=store)
        assert len(made) == before + 1


def test_shares_come_before_time_and_equal_shares_do_not() -> None:
    scores = {"a": score(1.0, 9), "b": score(0.9, 1), "c": score(0.999, 5, noise=0.4), "d": score(0.5, 1)}
    assert ranked(scores) == ["c", "a", "b", "d"]
    assert scores["a"].beats(scores["b"])
    assert not scores["b"].beats(scores["a"])
    assert scores["c"].beats(scores["a"])  # equal within the interval of the shares, and faster
    assert not scores["a"].beats(score(1.0, 9))
    slow = replace(score(0.0, 9), decided=np.full(PARTS, 50.0))  # that less is known of it does not make it better
    assert not slow.share_exceeds(score(0.0, 1))
    assert score(0.0, 1).beats(slow)
    assert not replace(slow, decided=np.zeros(PARTS)).share_exceeds(score(0.0, 1))
    nothing = replace(score(0.0, 1), log_latency=np.full(PARTS, np.inf))
    assert scores["d"].is_faster(nothing)
    assert not nothing.is_faster(nothing)


def test_nodes_are_spared_where_nothing_else_differs_and_by_cost_before_latency() -> None:
    def at(latency_s: float, *cost: float, share: float = 1.0) -> Score:
        return replace(score(share, latency_s), cost=cost)

    scores = {"all": at(1.0, 9.0, 9), "few": at(1.02, 3.0, 3), "fewer": at(1.02, 3.0, 2), "slow": at(2.0, 1.0, 1)}
    noise = np.tile([0.1, -0.1], PARTS // 2)
    scores |= {"bad": at(0.1, 0.0, 1, share=0.5)}
    scores = {
        name: replace(one, log_latency=one.log_latency + k * noise) for k, (name, one) in enumerate(scores.items())
    }
    assert ranked(scores) == ["fewer", "few", "all", "slow", "bad"]
    assert ranked(scores, by_cost=True) == ["slow", "fewer", "few", "all", "bad"]
    assert replace(scores["slow"], cost_first=True).beats(scores["all"])
    assert not scores["slow"].beats(scores["all"])
    assert not replace(scores["bad"], cost_first=True).beats(scores["all"])
    precise = {"all": at(1.0, 9.0, 9), "few": at(1.02, 3.0, 3)}  # the difference is small but certain
    assert ranked(precise) == ["all", "few"]


def test_the_price_of_nodes_in_use_decides_by_cost(tmp_path) -> None:
    """A single GPU of the least price meets a lenient objective; by latency the fast one is taken."""
    found = {}
    for criterion in ("goodput", "cost"):
        overrides = (f"systems.0.placement.criterion={criterion}", "slo={ttft: 20 s, tpot: 2 s}")
        experiment = loaded(tmp_path, "workload.arrivals.rate=0.2", *overrides)
        fast = place_system(experiment, experiment.systems[1]).placement
        ranges = {"l40s-0": fast.ranges["l40s-0"]}
        slow = {node: held for node, held in fast.ranges.items() if node != "l40s-0"}
        contenders = [
            ("fast", replace(fast, ranges=ranges, pipelines=dict.fromkeys(ranges, 0))),
            ("slow", replace(fast, ranges=slow, pipelines={node: fast.pipelines[node] for node in slow})),
        ]
        found[criterion] = race_of(experiment, contenders).notes["chosen"]
        prices = [
            sum(experiment.fleet.cluster.node(node).cost_usd_per_hour for node in nodes) for nodes in (ranges, slow)
        ]
    assert found["goodput"] == "fast"
    assert found["cost"] == ("fast", "slow")[prices.index(min(prices))]


def test_requests_are_judged_by_what_is_known_at_the_end(placed) -> None:
    """All that wait in vain have missed; with objectives nothing can meet, all decided ones have."""
    experiment, system = placed
    run = simulate_system(experiment, system, seed=experiment.seed)
    for slo, share in ((Slo(), 1.0), (Slo(tpot_s=1e-6), 0.0), (Slo(ttft_s=1e-6), 0.0), (Slo(e2el_s=1e9), 1.0)):
        found = scored(replace(experiment, slo=slo), system, run)
        assert found.share == share
        counts = throughput(run, slo)
        assert found.decided.sum() == counts.completed + counts.failed + counts.overdue
        assert found.share == (counts.slo_attainment if slo.is_stated else 1.0)
        assert found.shares.mean() == pytest.approx(found.share)


def test_trial_figures_are_those_of_the_report(placed) -> None:
    experiment, system = placed
    run = simulate_system(experiment, system, seed=experiment.seed)
    summary = summary_of(experiment, system, run, offered_rps=2.0)
    found = scored(experiment, system, run)
    assert summary.ttft is not None
    assert summary.tpot is not None
    assert found.ttft_s == pytest.approx([summary.ttft.p50_s, summary.ttft.p95_s, summary.ttft.p99_s], rel=1e-4)
    assert found.tpot_s == pytest.approx([summary.tpot.p50_s, summary.tpot.p95_s, summary.tpot.p99_s], rel=1e-4)
    assert found.output_tokens_per_s == pytest.approx(summary.throughput.output_tokens_per_s, rel=1e-4)
    kept = of_summary(summary)
    for name in ("good", "decided", "log_latency"):
        assert (getattr(kept, name) == getattr(found, name)).all()
    assert kept.output_tokens == pytest.approx(found.output_tokens)
    assert (kept.cost, kept.cost_first, kept.is_overloaded) == (found.cost, found.cost_first, found.is_overloaded)
    older = of_summary(replace(summary, ranking=None))
    assert older.latency_s == pytest.approx(found.latency_s, rel=1e-4)
    assert older.share == pytest.approx(found.share)
    means = np.mean(found.ttft_s), np.mean(found.tpot_s)
    assert found.latency_s == pytest.approx(np.sqrt(means[0] * means[1]))


def test_every_percentile_counts_for_the_latency(placed) -> None:
    """A longer TTFT of a few, or one of all, is more latency; waiting requests count with their wait so far."""
    experiment, system = placed
    run = simulate_system(experiment, system, seed=experiment.seed)
    latency_s = scored(experiment, system, run).latency_s
    columns = run.requests

    def latency_with(first_token_ns: np.ndarray) -> float:
        finish_ns = np.where(first_token_ns < 0, -1, columns.finish_ns)
        requests = replace(columns, first_token_ns=first_token_ns, finish_ns=finish_ns)
        return scored(experiment, system, replace(run, requests=requests)).latency_s

    first = columns.first_token_ns
    slow = np.argsort(np.where(first > run.window_start_ns, first - columns.arrival_ns, -1))[-4:]
    for later in (slow, np.arange(len(first))):
        changed = first.copy()
        changed[later] += np.where(first[later] >= 0, 10**8, 0)
        assert latency_with(changed) > latency_s
    waits = first.copy()
    inside = np.flatnonzero((columns.arrival_ns > run.window_start_ns) & (columns.arrival_ns < run.window_end_ns))
    waits[inside[: len(inside) // 4]] = -1
    assert latency_with(waits) > 2 * latency_s


def test_what_the_race_simulated_as_reported_is_not_simulated_again(tmp_path, monkeypatch) -> None:
    experiment = loaded(tmp_path)
    baseline = place_system(experiment, experiment.systems[1])
    runs = SimulatedStore(tmp_path / "runs")
    fresh = simulated(experiment, baseline, None)
    race = Race(experiment, baseline.system, capacity_table(experiment, baseline.system), lambda: [baseline], runs)
    race([Contender("all", baseline.placement)], lambda _text: None)

    def refused(*_args, **_options):
        raise AssertionError("simulated again")

    monkeypatch.setattr("helixsim.study.finished.simulate_system", refused)
    again = simulated(experiment, baseline, runs)
    assert (again.requests.finish_ns == fresh.requests.finish_ns).all()
    for other in (
        (replace(experiment, seed=experiment.seed + 1), baseline),
        (experiment, replace(baseline, system=replace(baseline.system, routing="least_loaded"))),
        (experiment, replace(baseline, placement=replace(baseline.placement, pipelines={}))),
    ):
        with pytest.raises(AssertionError, match="simulated again"):
            simulated(*other, runs)


def test_worth_is_that_of_one_more_node_of_each_type(tmp_path) -> None:
    experiment = loaded(tmp_path)
    worth = worth_of_one_more(experiment.fleet, capacity_table(experiment, experiment.systems[1]))
    more = loaded(tmp_path, "cluster.nodes.0.count=2")
    bounds = [upper_bound_share(one.fleet, capacity_table(one, one.systems[1])) for one in (experiment, more)]
    assert worth.keys() == {profile.kind for profile in experiment.fleet.profiles}
    assert worth["l40s"] == pytest.approx(bounds[1] / bounds[0] - 1, rel=1e-3)
    assert worth["l40s"] > worth["t4"] > 0


def test_worth_and_idle_nodes_are_told(placed) -> None:
    notes = dict(placed[1].placement.notes)
    busy = {**notes, "idle": {}, "reserve": [], "worth": {"t4": 0.1, "l40s": 0.25}}
    assert selection_sentences(busy)[-1] == "One more node raises the bound on max-flow by: l40s 25 %, t4 10 %."
    for spare in ({"reserve": ["t4-0"]}, {"idle": {"t4-0": "not needed: with it 100 %"}}):
        assert not any("One more" in sentence for sentence in selection_sentences({**busy, **spare}))
    worse = {**busy, "idle": {"t4-0": "makes it worse: with it 50 %"}}
    assert any("One more" in sentence for sentence in selection_sentences(worse))
    shown = " ".join(selection_sentences(notes))
    assert "Its last trial, on other requests: " in shown
    assert shown.index("As reported: ") < shown.index("Its last trial")


def test_second_policies_suit_the_routes_and_shares_take_least_time(tmp_path) -> None:
    experiment = loaded(tmp_path)
    system = experiment.systems[0]
    placement = place_system(experiment, experiment.systems[1]).placement
    race = Race(experiment, system, capacity_table(experiment, system))
    entry, load = race._entry(Contender("all", placement)), RaceLoad(True, 2.0, None)
    assert entry.system.routing == "earliest_finish"
    saturated = race._alternatives(entry, RaceLoad(False, 2.0, None))
    assert [one.system.routing for one in saturated] == ["least_loaded", "flow_weighted"]
    assert not saturated[1].system.routing_options.shares  # those of the max-flow
    least_loaded, by_shares = race._alternatives(entry, load)
    assert (least_loaded.system.routing, by_shares.system.routing) == ("least_loaded", "flow_weighted")
    (shares,) = by_shares.system.routing_options.shares.values()
    far = sum(share for node, share in shares.items() if node.startswith("t4"))
    assert shares["l40s-0"] == pytest.approx(2.0 * 60)  # all of the load: nothing is gained by slow nodes far away
    assert far == 0
    alone = {"l40s-0": placement.ranges["l40s-0"]}
    one = race._entry(Contender("one", replace(placement, ranges=alone, pipelines={"l40s-0": 0})))
    assert race._alternatives(one, load) == []
    fixed = Race(experiment, replace(system, routing="random"), capacity_table(experiment, system))
    assert fixed._entry(Contender("all", placement)).system.routing == "random"
    assert fixed._alternatives(entry, load) == []


def test_expected_finishes_count_as_work(tmp_path) -> None:
    """Where nodes are many, a policy that expects finishes takes longer than the events that it causes."""
    experiment = loaded(tmp_path)
    placed = place_system(experiment, experiment.systems[1])
    shown, events = {}, {}
    for policy in ("least_loaded", "earliest_finish", "in_time"):
        system = placed.system.with_routing(policy, routing_registry.get(policy).Options())
        routed_so = replace(placed, system=system)
        shown[policy] = simulate_run(RaceRun("", experiment, routed_so), lambda *_: None).events
        run = simulate_system(experiment, routed_so)
        events[policy] = run.counters["events"], len(run.requests.status)
    for policy, (own, requests) in events.items():
        expected = 0 if policy == "least_loaded" else EXPECTATION_EVENTS * requests * len(placed.placement.ranges)
        assert shown[policy] == own + expected


def test_chains_are_tried_with_the_policy_for_late_requests_where_the_best_entry_is_late(tmp_path) -> None:
    experiment = loaded(tmp_path)
    placement = place_system(experiment, experiment.systems[1]).placement
    race = Race(experiment, experiment.systems[0], capacity_table(experiment, experiment.systems[0]))
    entry, alone = (race._entry(Contender(name, one)) for name, one in (("all", placement), ("one", _first(placement))))
    for share, labels in ((1.0, []), (0.99, []), (0.9, ["all, in_time"])):
        trial = Trial(experiment.workload.window, 0, experiment.slo)
        for one in (entry, alone):  # there is nothing to choose among the routes of a single chain
            trial.entries[one.label], trial.scores[one.label] = one, score(share, 1.0)
        assert [one.label for one in race._late([trial])] == labels


def _first(placement: Placement) -> Placement:
    node = next(iter(placement.ranges))
    return replace(placement, ranges={node: placement.ranges[node]}, pipelines={node: 0})


def test_an_entry_that_showed_more_than_the_finalists_do_is_simulated_as_reported_too(placed, monkeypatch) -> None:
    """Queues still grow in short trials: the first two do worse as reported than the third one has shown."""
    experiment, system = placed
    race = Race(experiment, system.system, capacity_table(experiment, system.system))
    entries = {name: Entry(name, system.placement, system.plan, system.system) for name in "abcd"}
    shown = {"a": (1.0, 0.3), "b": (1.0, 0.35), "c": (1.0, 0.4), "d": (1.0, 0.8)}
    reported = {"a": (0.6, 2.0), "b": (1.0, 0.6), "c": (1.0, 0.5), "d": (1.0, 0.1)}
    trial = Trial(experiment.workload.window, 1, experiment.slo)
    for name, entry in entries.items():
        trial.entries[entry.label], trial.scores[entry.label] = entry, score(*shown[name])

    def as_reported(final: Trial, entries, _, **_how) -> int:
        for entry in entries:
            final.entries[entry.label], final.scores[entry.label] = entry, score(*reported[entry.name])
        return len(entries)

    monkeypatch.setattr(race, "_try", as_reported)
    final, chosen, _ = race._final(
        trial.best(), [trial], lambda text: None, Budget(math.inf, None, 0.0), RaceLoad(True, 2.0, None), []
    )
    assert [entry.name for entry in final.entries.values()] == ["a", "b", "c"]
    assert chosen.name == "c"


def test_under_saturation_the_best_of_each_policy_is_simulated_as_reported(placed, monkeypatch) -> None:
    experiment, system = placed
    race = Race(experiment, system.system, capacity_table(experiment, system.system))
    policies = {"a": "earliest_finish", "b": "earliest_finish", "c": "earliest_finish", "d": "least_loaded"}
    entries = [
        with_policy(Entry(name, system.placement, system.plan, system.system), policy)
        for name, policy in policies.items()
    ]
    shown = dict(zip("abcd", (9.0, 8.0, 4.0, 4.0), strict=True))
    reported = dict(zip("abcd", (5.0, 5.0, 9.0, 6.0), strict=True))

    def served(tokens_per_s: float) -> Score:
        return replace(score(1.0, 1.0), output_tokens=np.full(PARTS, tokens_per_s / PARTS))

    trial = Trial(experiment.workload.window, 1, Slo(), is_open=False)
    for entry in entries:
        trial.entries[entry.label], trial.scores[entry.label] = entry, served(shown[entry.name])

    def as_reported(final: Trial, entries, _, **_how) -> int:
        for entry in entries:
            final.entries[entry.label], final.scores[entry.label] = entry, served(reported[entry.name])
        return len(entries)

    free = replace(race, experiment=replace(experiment, slo=Slo()))
    monkeypatch.setattr(Race, "_try", lambda _self, *given, **how: as_reported(*given, **how))
    monkeypatch.setattr(Race, "_alternatives", lambda *_: [])
    monkeypatch.setattr(Race, "_late", lambda *_: [])
    final, chosen, _ = free._final(
        trial.best(), [trial], lambda text: None, Budget(math.inf, None, 0.0), RaceLoad(False, 2.0, None), []
    )
    assert {entry.name for entry in final.entries.values()} == {"a", "b", "d"}
    assert chosen.name == "d"


def test_processes_share_the_simulations_and_select_the_same(placed, monkeypatch) -> None:
    experiment, alone = placed
    started = []

    class Counted(Processes):
        def run(self, work, tasks, on_progress):
            started.append(len(tasks))
            return super().run(work, tasks, on_progress)

    monkeypatch.setattr("helixsim.study.race.PARALLEL_CPU_S", 0.0)
    with Counted(2) as executor:
        shared = place_system(experiment, experiment.systems[0], executor=executor)
    assert max(started) > 1
    assert replace(shared.placement, solve_s=0.0, history=()) == replace(alone.placement, solve_s=0.0, history=())
    assert shared.system == alone.system


def test_trials_are_on_other_requests_than_the_report(placed, monkeypatch) -> None:
    experiment, _ = placed
    seeds = []

    def noted(_experiment, _placed, *, seed=None, **options):
        seeds.append(seed)
        return simulate_system(_experiment, _placed, seed=seed, **options)

    monkeypatch.setattr("helixsim.study.race_runs.simulate_system", noted)
    place_system(experiment, experiment.systems[0])
    assert len(set(seeds)) == 2
    assert not {None, experiment.seed} & set(seeds)


def test_short_races_are_left_to_this_process(placed) -> None:
    experiment, _ = placed

    class Refused(Processes):
        def run(self, *_):
            raise AssertionError("another process was asked")

    place_system(experiment, experiment.systems[0], executor=Refused(2))


def test_an_error_of_a_simulation_is_that_of_the_race(placed, monkeypatch) -> None:
    experiment, _ = placed

    def fails(*_args, **_options):
        raise SimulationError("no progress")

    monkeypatch.setattr("helixsim.study.race_runs.simulate_system", fails)
    with pytest.raises(SimulationError, match="no progress"):
        place_system(experiment, experiment.systems[0])


def test_entries_that_did_exactly_the_same_go_on_once(placed) -> None:
    experiment, system = placed
    trial = Trial(experiment.workload.window, 1, experiment.slo)
    for name, latency_s in {"a": 0.3, "b": 0.3, "c": 0.4}.items():
        entry = Entry(name, system.placement, system.plan, system.system)
        trial.entries[entry.label], trial.scores[entry.label] = entry, score(1.0, latency_s)
    assert [entry.name for entry in trial.distinct()] == ["a", "c"]


def test_half_of_the_entries_and_the_best_of_each_kind_of_routes_go_on(placed, monkeypatch) -> None:
    """Short trials cannot tell good plans from those whose queues have yet to grow."""
    experiment, system = placed
    trial = Trial(experiment.workload.window, 1, experiment.slo)
    nodes = [node.id for node in experiment.fleet.cluster.nodes]
    chain = Placement(
        "x", 32, dict.fromkeys(nodes, LayerRange(0, 32)), pipelines={node: at for at, node in enumerate(nodes)}
    )
    half, rest = LayerRange(0, 16), LayerRange(16, 32)
    branching = Placement("x", 32, {nodes[0]: half, nodes[1]: half, nodes[2]: rest})
    placements = {**dict.fromkeys("abcdefgh", chain), "y": branching, "z": branching}
    for at, (name, placement) in enumerate(placements.items()):
        entry = Entry(name, placement, system.plan, system.system)
        trial.entries[entry.label], trial.scores[entry.label] = entry, score(1.0, 0.1 * (1 + at))
    passed = Race._passed(trial)
    assert [entry.name for entry in passed] == ["a", "b", "c", "d", "e", "y"]
    # A round that is cut short must not leave out a kind.
    assert [entry.name for entry in kinds_first(passed)] == ["a", "y", "b", "c", "d", "e"]
    assert len({routes_of(entry.placement) for entry in passed}) + 1 < LEAST_TRIED
    # Nor a placement with the routing of its method.
    monkeypatch.setattr(heuristics, "FEW_NODES", 2)
    own = with_policy(Entry("parallax", branching, system.plan, system.system), "parallax")
    assert [entry.name for entry in kinds_first([*passed, own])] == ["a", "y", "parallax", "b", "c", "d", "e"]


def test_plans_of_other_systems_are_candidates_of_a_race(placed) -> None:
    names = {entry["name"] for entry in placed[1].placement.notes["candidates"]}
    assert {"replicas", "swarm", "petals", "separate", "parallax"} <= names


def test_much_larger_shares_come_first_even_where_a_short_run_is_no_proof() -> None:
    """Shares count as equal within two points and their interval; the latency decides between those alone."""
    more, faster = score(0.5, 0.6, noise=2.0), score(0.4, 0.5)
    assert not more.share_exceeds(faster)
    assert not more.beats(faster)
    assert not faster.beats(more)
    assert ranked({"faster": faster, "more": more}) == ["more", "faster"]
    alike = score(0.485, 0.01)
    assert ranked({"more": more, "alike": alike}) == ["alike", "more"]
