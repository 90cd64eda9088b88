"""The budget of a race: windows of simulations that would take too long are shortened, and the result says so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import helixsim
from helixsim.config.effort import TOKENS_PER_CPU_S
from helixsim.domain.placement import LayerRange, Placement
from helixsim.domain.request import Window
from helixsim.flow.maxflow import max_flow
from helixsim.flow.operating import operating_point
from helixsim.placement import heuristics
from helixsim.placement.base import Contender
from helixsim.placement.select import layout_of
from helixsim.report.selection import selection_sentences
from helixsim.runtime.pool import Serial
from helixsim.study import race, race_budget, race_runs
from helixsim.study.placing import place_system
from helixsim.study.race import Race
from helixsim.study.race_budget import OF_A_TRIAL, OF_THE_REPORT, Budget
from helixsim.study.run import run_experiment
from helixsim.study.systems import PlacedSystem, capacity_table, operating_load
from tests.unit.study.test_race import EXPERIMENT

SECOND = 10**9


def loaded(folder: Path, *overrides: str):
    path = folder / "exp.yaml"
    path.write_text(EXPERIMENT)
    return helixsim.load_experiment(path, list(overrides))


def estimated_s(window: Window, tokens_per_s: float) -> float:
    return tokens_per_s * (window.warmup_ns + window.duration_ns) / SECOND / TOKENS_PER_CPU_S


@pytest.mark.parametrize("cpu_s", [1.0, 10.0, 100.0])
@pytest.mark.parametrize("runs", [(20, 4), (5, 2)])
def test_trials_keep_within_their_share_and_their_proportion(cpu_s, runs):
    budget = Budget(cpu_s, tokens_per_s=30_000.0, residence_s=0.5)
    windows = [Window(50 * SECOND, 100 * SECOND, drain=False), Window(100 * SECOND, 200 * SECOND, drain=False)]
    found = budget.trials(windows, runs)
    for window, kept, count in zip(windows, found, runs, strict=False):
        assert count * estimated_s(kept, 30_000.0) <= OF_A_TRIAL * cpu_s * (1 + 1e-6)
        assert kept.warmup_ns * 2 == pytest.approx(kept.duration_ns)
        assert kept.duration_ns <= window.duration_ns
        assert kept.duration_ns >= 0.5 * SECOND
    shortened = sum(kept is not window for kept, window in zip(found, windows, strict=False))
    assert len(budget.told) == shortened + (len(found) < len(windows))


def test_what_fits_is_left_as_it_is_and_nothing_is_told():
    budget = Budget(1e6, tokens_per_s=30_000.0, residence_s=10.0)
    windows = [Window(0, 100 * SECOND, drain=False), Window(0, 200 * SECOND, drain=False)]
    assert budget.trials(windows, (20, 4)) == windows
    assert budget.report(windows[1], 5) is windows[1]
    assert budget.told == []


def test_large_fleets_have_less_time_and_take_more_for_a_token_unless_the_user_says_so():
    usual, large, stated = (Budget.of(cpu_s, n, 1e5, 10.0) for cpu_s, n in ((None, 300), (None, 1000), (900.0, 1000)))
    assert (usual.cpu_s, large.cpu_s, stated.cpu_s) == (600.0, 120.0, 900.0)
    window = Window(100 * SECOND, 200 * SECOND, drain=False)
    assert large.simulation_cpu_s(window) == stated.simulation_cpu_s(window) > 2 * usual.simulation_cpu_s(window)
    assert usual.simulation_cpu_s(window) == pytest.approx(estimated_s(window, 1e5))
    kept = large.report(window, 2)
    assert 2 * large.simulation_cpu_s(kept) <= OF_THE_REPORT * 120.0 * (1 + 1e-6)


def test_without_a_rate_nothing_is_shortened():
    window = Window(0, 100 * SECOND, drain=True)
    assert Budget(1e-3, None, 0.0).report(window, 9) is window


def test_a_window_shorter_than_a_request_takes_is_no_trial_and_the_comparison_is_as_long_as_one():
    budget = Budget(1.0, tokens_per_s=1e6, residence_s=60.0)
    window = Window(100 * SECOND, 200 * SECOND, drain=True)
    assert budget.trials([window, window], (20, 4)) == []
    kept = budget.report(window, 3)
    assert kept.duration_ns == pytest.approx(60 * SECOND)
    assert not kept.drain
    assert [one.split(" ")[0] for one in budget.told] == ["Trial", "Finalists"]


def test_the_comparison_keeps_within_its_share():
    budget = Budget(50.0, tokens_per_s=1e5, residence_s=1.0)
    window = Window(300 * SECOND, 600 * SECOND, drain=True)
    kept = budget.report(window, 3)
    assert 3 * estimated_s(kept, 1e5) <= OF_THE_REPORT * 50.0 * (1 + 1e-6)


@given(st.lists(st.one_of(st.none(), st.floats(-1, 1e6)), max_size=5), st.floats(-1, 1e6))
def test_near_is_three_quarters_of_what_the_best_candidate_is_worth(estimates, best):
    """Below zero, estimates are the share of the load that is served, less one."""
    baselines = {f"system {number}": one for number, one in enumerate(estimates)}
    budget = Budget(1.0, 1e5, 1.0, is_large=True)
    kept = budget.near(baselines, best)
    assert kept == [name for name in baselines if name in kept]
    for name, one in baselines.items():
        mine, most = (one, best) if best > 0 else (1 + (one or 0), 1 + best)
        if one is None or mine > 0.7501 * most:
            assert name in kept
        elif mine < 0.7499 * most:
            assert name not in kept
        assert (name in kept) != any(name in text for text in budget.told)


def test_a_comparison_fits_as_long_as_its_simulations_do():
    """Two of 60 s each, at 1 000 tokens/s and as many in a CPU second."""
    for cpu_s, fits in ((121.0, True), (119.0, False)):
        budget = Budget(cpu_s, 1000.0, 60.0, 1000.0, is_large=True)
        assert budget.can_compare(2) is fits
        assert bool(budget.told) is not fits
    assert Budget(1.0, 1000.0, 60.0, 1000.0).can_compare(2)  # not a large fleet
    assert Budget(1.0, None, 60.0, 1000.0, is_large=True).can_compare(2)


def test_large_fleets_leave_out_baselines_that_the_estimate_puts_far_behind(tmp_path, monkeypatch):
    """T4 far away take more than twice as long for a token as the L40S."""
    options = "systems.0.placement={strategy: helix, candidates: 3, race_cpu_s: 0.0001}"
    experiment = loaded(tmp_path, options, "workload.arrivals.rate=0.2 /s")
    whole = place_system(experiment, experiment.systems[1])
    fast = whole.placement.part({"l40s-0"})
    slow = whole.placement.part({node for node in whole.placement.ranges if node.startswith("t4")})
    capacity = capacity_table(experiment, experiment.systems[0])
    rivals = [
        PlacedSystem(replace(whole.system, name=name), one, max_flow(experiment.fleet, one, capacity))
        for name, one in (("fast", fast), ("slow", slow))
    ]

    def compared() -> set[str]:
        race = Race(experiment, experiment.systems[0], capacity, lambda: rivals)
        found = race([Contender("best", fast)], lambda _text: None)
        assert ("Not compared" in found.notes["budget"]) == ("slow" not in str(found.notes["race"]))
        return {one["name"] for one in found.notes["race"] if one["is_baseline"]}

    assert compared() == {"system fast", "system slow"}
    monkeypatch.setattr(race_budget, "LARGE_NODES", 1)
    monkeypatch.setattr(Budget, "can_compare", lambda *_: True)
    assert compared() == {"system fast"}


def simulated_windows(monkeypatch) -> list[Window]:
    """Return a list that gathers the windows of the simulations of races."""
    windows: list[Window] = []
    whole = race_runs.simulate_system

    def noted(experiment, placed, **options):
        windows.append(options.get("window", experiment.workload.window))
        return whole(experiment, placed, **options)

    monkeypatch.setattr(race_runs, "simulate_system", noted)
    return windows


def labels_of(monkeypatch) -> list[str]:
    """Return a list that gathers the labels of the simulations of races."""
    tried: list[str] = []
    whole = race_runs.simulate_run
    monkeypatch.setattr(race_runs, "simulate_run", lambda task, report: tried.append(task.label) or whole(task, report))
    return tried


def test_a_race_within_a_small_budget_says_what_it_shortened(tmp_path, monkeypatch):
    windows = simulated_windows(monkeypatch)
    # 2 requests/s of 60 tokens: a second of the load is estimated at 0.0008 CPU s.
    experiment = loaded(tmp_path, "systems.0.placement.race_cpu_s=0.05")
    notes = place_system(experiment, experiment.systems[0]).placement.notes
    spent_s = sum(estimated_s(window, 120.0) for window in windows)
    assert spent_s <= 0.05 * 1.1
    assert "of race_cpu_s 0.05" in notes["budget"]
    assert notes["budget"] in selection_sentences(notes)


def test_entries_beyond_the_events_of_the_budget_are_left_out(tmp_path, monkeypatch):
    """Those of a trial are simulated until it has taken its share, but a few in any case."""
    tried = labels_of(monkeypatch)
    monkeypatch.setattr(race_budget, "EVENTS_PER_CPU_S", 1.0)
    monkeypatch.setattr(race, "LEAST_TRIED", 1)
    monkeypatch.setattr(race, "MOST_ALTERNATIVES", 0)
    experiment = loaded(tmp_path, "systems.0.placement.disaggregate=never")
    notes = place_system(experiment, experiment.systems[0]).placement.notes
    assert "Trial 1 had 1 of 2 entries, the most promising, in race_cpu_s 600." in notes["budget"]
    assert [label.split(":")[0] for label in tried] == ["trial of 10 s", "trial of 20 s", "as reported", "as reported"]


def t4_pairs(*pipelines: int) -> Placement:
    """Return the T4 with halves of the model, each in one of the given pipelines; none: all in one that branches."""
    ranges = {f"t4-{number}": LayerRange(0, 16) if number < 2 else LayerRange(16, 32) for number in range(4)}
    return Placement("helix", 32, ranges, pipelines=dict(zip(ranges, pipelines, strict=False)))


@pytest.mark.parametrize(("few_nodes", "routing"), [(3, "parallax"), (4, "flow_weighted")])
def test_on_many_nodes_the_routing_of_the_method_is_tried_first(tmp_path, monkeypatch, few_nodes, routing):
    tried = labels_of(monkeypatch)
    monkeypatch.setattr(heuristics, "FEW_NODES", few_nodes)
    experiment = loaded(tmp_path)
    selects = Race(experiment, experiment.systems[0], capacity_table(experiment, experiment.systems[0]))
    contenders = [Contender("parallax", t4_pairs(), 2000.0), Contender("blocks", t4_pairs(0, 1, 0, 1), 2000.0)]
    selects(contenders, lambda _text: None)
    assert [label.split(": ")[1] for label in tried[:2]] == [f"parallax, {routing}", "blocks, earliest_finish"]


class WithRoles:
    """Stands for the candidates with roles: these, in this order."""

    def __init__(self, *apart: Contender) -> None:
        self.apart, self.groups = list(apart), list[Contender]()

    def beside(self, _contenders) -> WithRoles:
        return self

    def worth_trying(self) -> list[Contender]:
        return self.apart

    def notes(self, **_options) -> dict[str, object]:
        return {}


@pytest.mark.parametrize(
    ("race_cpu_s", "few_nodes", "simulated"),
    [(0.2, 4, ["first"]), (0.2, 5, ["first", "second"]), (600.0, 4, ["first", "second"])],
)
def test_on_many_nodes_roles_keep_to_the_budget(tmp_path, monkeypatch, race_cpu_s, few_nodes, simulated):
    """One candidate with roles is tried in any case."""
    tried = labels_of(monkeypatch)
    monkeypatch.setattr(race, "FEW_NODES", few_nodes)
    experiment = loaded(tmp_path, f"systems.0.placement.race_cpu_s={race_cpu_s}", "slo={ttft: 1 ms}")
    system = experiment.systems[0]
    roles = WithRoles(Contender("first", t4_pairs(0, 1, 0, 1)), Contender("second", t4_pairs(0, 1, 1, 0)))
    selects = Race(experiment, system, capacity_table(experiment, system), roles=roles)
    selects([Contender("blocks", t4_pairs(), 2000.0)], lambda _text: None)
    names = [label.split(": ")[1].split(",")[0] for label in tried if label.startswith("trial of")]
    assert [name for name in dict.fromkeys(names) if name != "blocks"] == simulated


def test_a_race_without_trials_takes_the_best_by_the_estimate(tmp_path, monkeypatch):
    windows = simulated_windows(monkeypatch)
    experiment = loaded(tmp_path, "systems.0.placement.race_cpu_s=0.0001")
    found = place_system(experiment, experiment.systems[0])
    assert "Trial 1 was left out and the estimate ranks its entries" in found.placement.notes["budget"]
    assert {entry["round"] for entry in found.placement.notes["race"]} == {1}
    assert len(windows) == len(found.placement.notes["race"])  # finalists and baselines alone


def test_on_large_fleets_the_estimate_selects_where_no_simulation_fits(tmp_path, monkeypatch):
    """And estimates each placement once."""
    estimated = []

    def counted(fleet, placement, load, **options):
        estimated.append(layout_of(placement))
        return operating_point(fleet, placement, load, **options)

    monkeypatch.setattr("helixsim.study.evaluator.operating_point", counted)
    windows = simulated_windows(monkeypatch)
    options = "systems.0.placement={strategy: helix, candidates: 3, race_cpu_s: 0.0001}"
    experiment = loaded(tmp_path, options, "workload.arrivals={process: saturate}", "slo={}")
    monkeypatch.setattr(race_budget, "LARGE_NODES", 1)
    placed = place_system(experiment, experiment.systems[0])
    notes = placed.placement.notes
    assert windows == []
    assert len(estimated) == len(set(estimated)) > 1
    assert "The estimate alone selected, and no baseline was compared" in notes["budget"]
    assert notes["budget"] in selection_sentences(notes)
    load = operating_load(experiment, placed.system)
    rivals = [place_system(experiment, system).placement for system in experiment.systems[1:]]
    served = [operating_point(experiment.fleet, one, load).output_tokens_per_s for one in rivals]
    assert placed.operating.output_tokens_per_s >= max(served)


def test_a_usual_race_is_not_shortened(tmp_path):
    experiment = loaded(tmp_path)
    assert "budget" not in place_system(experiment, experiment.systems[0]).placement.notes


def test_the_manifest_says_that_a_race_was_shortened(tmp_path):
    experiment = loaded(tmp_path, "systems.0.placement.race_cpu_s=0.05")
    directory = run_experiment(experiment, tmp_path / "runs", Serial(), with_report=False)
    manifest = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
    (told,) = [one for one in manifest["assumptions"] if one.startswith("helix: Trial 1")]
    assert "of race_cpu_s 0.05" in told
