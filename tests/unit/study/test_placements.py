"""Placements are made once for equal inputs, and anew for all others."""

from __future__ import annotations

import dataclasses
import importlib
import shutil
import sys

import pytest
from tiny import SWARM, tiny

import helixsim
from helixsim.placement import registry
from helixsim.runtime import identity
from helixsim.runtime.pool import Serial
from helixsim.study.placements import placement_store
from helixsim.study.placing import as_planned, place_system
from helixsim.study.run import run_experiment

EXPERIMENT = tiny("{name: helix, placement: {strategy: helix, candidates: 2}}", SWARM, warmup_s=0, duration_s=2)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "exp.yaml"
    path.write_text(EXPERIMENT, encoding="utf-8")
    return path


@pytest.fixture
def searches(monkeypatch):
    """Count the searches of each strategy."""
    counts = {"helix": 0, "swarm": 0}
    for name in counts:
        strategy = registry.get(name)

        def solve(self, problem, options, name=name, real=strategy.solve):
            counts[name] += 1
            return real(self, problem, options)

        monkeypatch.setattr(strategy, "solve", solve)
    return counts


def place_all(path, store, *overrides, by_flow=False):
    experiment = helixsim.load_experiment(path, overrides)
    return [place_system(experiment, system, store=store, by_flow=by_flow) for system in experiment.systems]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "again"),
    [
        ("workload.arrivals.rate=3", {"helix"}),  # only the judge sees the load
        ("seed=1", {"helix", "swarm"}),
        ("cluster.nodes.0.count=3", {"helix", "swarm"}),
        ("cluster.nodes.0.cost=9 $/h", {"helix"}),  # equal candidates go by price
        ("slo={ttft: 1 s}", {"helix"}),  # its objective
        ("systems.0.routing=random", {"helix"}),
        ("systems.1.routing=random", {"helix"}),  # a rival of its race
        ("name=other", set()),
        ("systems.0.placement.candidates=3", {"helix"}),
    ],
)
def test_what_a_placement_depends_on(path, tmp_path, searches, override, again):
    store = placement_store(tmp_path / "store")
    first = place_all(path, store)
    before = dict(searches)
    second = place_all(path, store)
    assert searches == before
    assert [one.placement.ranges for one in first] == [one.placement.ranges for one in second]
    assert [one.plan for one in first] == [one.plan for one in second]
    place_all(path, store, override)
    assert {name for name, count in searches.items() if count > before[name]} >= again
    if "helix" not in again:
        assert searches["helix"] == before["helix"]
    if "swarm" not in again and "helix" not in again:  # helix asks the heuristics itself
        assert searches == before


def test_prices_matter_to_strategies_that_read_them_alone(path, tmp_path):
    """At 90 $/h no replica fits the budget that was enough at the usual price."""
    budget = "systems=[{name: s, placement: {strategy: cost_milp, budget_usd_per_hour: 20}}]"
    store = placement_store(tmp_path / "store")
    place_all(path, store, budget)
    with pytest.raises(helixsim.errors.InfeasibleError, match="budget_usd_per_hour is 20"):
        place_all(path, store, budget, "cluster.nodes.0.cost=90 $/h", "cluster.nodes.1.cost=90 $/h")


@pytest.mark.slow
def test_a_kept_placement_gives_the_run_that_a_search_gives(path, tmp_path):
    experiment = helixsim.load_experiment(path)
    runs = []
    for out in ("a", "a", "b"):
        directory = run_experiment(experiment, tmp_path / out, Serial(), force=out == "b", with_report=False)
        runs.append((directory / "summary.json").read_bytes() + (directory / "placements" / "helix.json").read_bytes())
    kept = helixsim.load_experiment(path, ["name=kept"])
    assert len(set(runs)) == 1
    other = run_experiment(kept, tmp_path / "a", Serial(), with_report=False)
    assert (other / "placements" / "helix.json").read_bytes() in runs[0]


def test_a_damaged_file_is_searched_anew_and_renew_replaces(path, tmp_path, searches):
    store = placement_store(tmp_path / "store")
    place_all(path, store, by_flow=True)
    for file in store.directory.glob("*.json"):
        file.write_text("{", encoding="utf-8")
    before = dict(searches)
    place_all(path, store, by_flow=True)
    assert searches["helix"] == before["helix"] + 1
    place_all(path, placement_store(store.directory, renew=True), by_flow=True)
    assert searches["helix"] == before["helix"] + 2


def test_flow_only_and_judged_placements_are_kept_apart(path, tmp_path, searches):
    store = placement_store(tmp_path / "store")
    place_all(path, store, by_flow=True)
    place_all(path, store)
    assert searches["helix"] == 2


def test_planners_can_suppose_another_seed_and_rate(path):
    plain = helixsim.load_experiment(path)
    assert as_planned(plain) is plain
    other = as_planned(helixsim.load_experiment(path, ["planning.seed=7", "planning.rate=5"]))
    assert (other.seed, other.workload.arrivals.rate_rps, other.workload_stats.offered_rps) == (7, 5.0, 5.0)
    back = dataclasses.replace(other.workload.arrivals, rate_rps=2.0)
    assert dataclasses.replace(other.workload, arrivals=back) == plain.workload


def test_a_closed_loop_has_no_rate_to_plan_for(path):
    overrides = ["workload.arrivals={process: saturate}", "planning.rate=5"]
    with pytest.raises(helixsim.errors.ConfigError, match="arrivals have no rate"):
        helixsim.load_experiment(path, overrides)


OWN = """\
from dataclasses import dataclass

from helixsim.placement.swarm import Swarm


class Own(Swarm):
    summary = "{text}"
"""


@pytest.fixture
def own_strategy(tmp_path, monkeypatch):
    """Return a function that writes a strategy of the user's own and forgets the one that was loaded."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(text):
        sys.modules.pop("own_strategy", None)
        (tmp_path / "own_strategy.py").write_text(OWN.format(text=text), encoding="utf-8")
        importlib.invalidate_caches()
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)

    yield write
    sys.modules.pop("own_strategy", None)


def test_placements_of_the_users_own_strategy_are_kept_until_it_is_edited(path, tmp_path, searches, own_strategy):
    path.write_text(EXPERIMENT.replace("{name: helix, placement: {strategy: helix, candidates: 2}}",
                                       "{name: own, placement: 'own_strategy:Own'}"), encoding="utf-8")  # fmt: skip
    store = placement_store(tmp_path / "store")
    counts = []
    for text in ("one", "one", "another", "one"):
        own_strategy(text)
        place_all(path, store)
        counts.append(searches["swarm"])
    assert counts == [2, 2, 3, 3]  # the first time for swarm itself, too


def test_placements_are_made_anew_when_code_changes_that_decides_them(path, tmp_path, searches, monkeypatch):
    store = placement_store(tmp_path / "store")
    place_all(path, store, by_flow=True)
    before = dict(searches)
    monkeypatch.setattr(identity, "code_digest", lambda: "other code")
    place_all(path, store, by_flow=True)
    assert all(searches[name] > before[name] for name in before)
