"""The seed of a run decides its requests, and variants keep only what is left of a placement."""

from __future__ import annotations

import numpy as np
import pytest
from tiny import tiny

import helixsim
from helixsim.flow.network import build_network
from helixsim.metrics.objectives import Target
from helixsim.study.evaluator import Evaluator
from helixsim.study.systems import capacity_table, patience_for, simulate_system
from helixsim.study.whatif import cases, place_case

TWO = ("{name: swarm, placement: swarm}", "{name: random, placement: separate, routing: random}")


@pytest.fixture
def experiment(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(tiny(*TWO), encoding="utf-8")
    return lambda *overrides: helixsim.load_experiment(path, overrides)


def load_of(run):
    rows = run.requests
    return np.stack([rows.arrival_ns, rows.prompt_tokens])


def test_two_seeds_give_different_requests_and_one_gives_the_same(experiment) -> None:
    ours = experiment()
    placed = helixsim.place(ours, "swarm")
    runs = {seed: simulate_system(ours, placed, seed=seed) for seed in (0, 1)}
    assert (runs[0].seed, runs[1].seed) == (0, 1)
    first, second = (load_of(runs[seed]) for seed in (0, 1))
    count = min(first.shape[1], second.shape[1])
    assert count > 10
    assert (first[0, :count] != second[0, :count]).mean() > 0.9
    assert (first[1, :count] != second[1, :count]).mean() > 0.9
    np.testing.assert_array_equal(first, load_of(simulate_system(ours, placed, seed=0)))
    # The experiment's own seed is the one that counts where none is given.
    other = experiment("seed=1")
    np.testing.assert_array_equal(second, load_of(simulate_system(other, helixsim.place(other, "swarm"))))


def test_all_systems_of_an_experiment_see_the_same_requests(experiment) -> None:
    ours = experiment()
    one, other = (load_of(simulate_system(ours, helixsim.place(ours, name))) for name in ("swarm", "random"))
    np.testing.assert_array_equal(one, other)


def test_candidates_are_judged_on_other_requests_than_those_they_are_reported_on(experiment, monkeypatch) -> None:
    ours = experiment()
    placed = helixsim.place(ours, "swarm")
    evaluator, seen = Evaluator(ours, ours.systems[0], capacity_table(ours, ours.systems[0])), []
    monkeypatch.setattr(evaluator, "_merit", lambda run: seen.append(run) or 1.0)
    assert evaluator(placed.placement) == 1.0
    judged, reported = load_of(seen[0]), load_of(simulate_system(ours, placed))
    count = min(judged.shape[1], reported.shape[1])
    assert (judged[:, :count] != reported[:, :count]).mean() > 0.9


def test_routing_draws_from_the_seed(experiment) -> None:
    """On the same requests another stream chooses other pipelines."""
    ours = experiment("workload.arrivals={process: constant, rate: 2 /s}")
    placed = helixsim.place(ours, "random")
    routes = [simulate_system(ours, placed, seed=seed).requests.route for seed in (0, 1)]
    count = min(map(len, routes))
    assert (routes[0][:count] != routes[1][:count]).any()


def test_patience_counts_the_requests_until_the_end_of_the_window(experiment) -> None:
    ours = experiment()
    system = ours.systems[0]
    targets = [Target("x", ours.slo.__class__(ttft_s=1.0), 90.0), Target("y", ours.slo.__class__(ttft_s=3.0), 80.0)]
    patience = patience_for(ours, system, 5, targets)
    run = simulate_system(ours, helixsim.place(ours, "swarm"), seed=5)
    window = ours.workload.window
    arriving = int((run.requests.arrival_ns <= window.warmup_ns + window.duration_ns).sum())
    # The most forgiving of the targets decides: a fifth may be later than 3 s.
    assert patience.most_late == -(-arriving // 5)
    assert patience.ttft_ns == 3_000_000_000
    assert patience.least_ns == window.duration_ns // 4


def test_lost_nodes_are_in_no_pipeline_of_what_is_kept(tmp_path) -> None:
    path = tmp_path / "tiny.yaml"
    whatif = "whatif:\n  - {name: lost, lose: [t4-1], replan: false}\n"
    path.write_text(tiny("{name: separate, placement: separate}") + whatif, encoding="utf-8")
    by_name = {case.name: case for case in cases(helixsim.load_experiment(path))}
    before, after = (place_case(by_name[name]) for name in ("separate", "separate+lost"))
    assert before.placement.pipelines.keys() == before.placement.ranges.keys()
    kept = after.placement
    assert "t4-1" in before.placement.pipelines
    assert kept.pipelines == {node: number for node, number in before.placement.pipelines.items() if node != "t4-1"}
    assert kept.pipelines.keys() == kept.ranges.keys()
    assert kept.notes["lost"] == ["t4-1"]
    network = build_network(by_name["separate+lost"].system.fleet, kept, capacity_table(*_of(by_name["separate+lost"])))
    assert set(network.order) <= set(kept.ranges)
    assert kept.objective_tokens_per_s == pytest.approx(after.plan.max_flow_tokens_per_s)


def _of(case):
    return case.experiment, case.system
