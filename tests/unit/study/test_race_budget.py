"""The budget of a race: windows of simulations that would take too long are shortened, and the result says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import helixsim
from helixsim.config.effort import TOKENS_PER_CPU_S
from helixsim.domain.request import Window
from helixsim.report.selection import selection_sentences
from helixsim.runtime.pool import Serial
from helixsim.study import race, race_budget, race_runs
from helixsim.study.placing import place_system
from helixsim.study.race_budget import OF_A_TRIAL, OF_THE_REPORT, Budget
from helixsim.study.run import run_experiment
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


def simulated_windows(monkeypatch) -> list[Window]:
    """Return a list that gathers the windows of the simulations of races."""
    windows: list[Window] = []
    whole = race_runs.simulate_system

    def noted(experiment, placed, **options):
        windows.append(options.get("window", experiment.workload.window))
        return whole(experiment, placed, **options)

    monkeypatch.setattr(race_runs, "simulate_system", noted)
    return windows


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
    tried: list[str] = []
    whole = race_runs.simulate_run
    monkeypatch.setattr(race_runs, "simulate_run", lambda task, report: tried.append(task.label) or whole(task, report))
    monkeypatch.setattr(race_budget, "EVENTS_PER_CPU_S", 1.0)
    monkeypatch.setattr(race, "LEAST_TRIED", 1)
    monkeypatch.setattr(race, "MOST_ALTERNATIVES", 0)
    experiment = loaded(tmp_path, "systems.0.placement.disaggregate=never")
    notes = place_system(experiment, experiment.systems[0]).placement.notes
    assert "Trial 1 had 1 of 2 entries, the most promising, in race_cpu_s 600." in notes["budget"]
    assert [label.split(":")[0] for label in tried] == ["trial of 10 s", "trial of 20 s", "as reported", "as reported"]


def test_a_race_without_trials_takes_the_best_by_the_estimate(tmp_path, monkeypatch):
    windows = simulated_windows(monkeypatch)
    experiment = loaded(tmp_path, "systems.0.placement.race_cpu_s=0.0001")
    found = place_system(experiment, experiment.systems[0])
    assert "Trial 1 was left out and the estimate ranks its entries" in found.placement.notes["budget"]
    assert {entry["round"] for entry in found.placement.notes["race"]} == {1}
    assert len(windows) == len(found.placement.notes["race"])  # finalists and baselines alone


def test_a_usual_race_is_not_shortened(tmp_path):
    experiment = loaded(tmp_path)
    assert "budget" not in place_system(experiment, experiment.systems[0]).placement.notes


def test_the_manifest_says_that_a_race_was_shortened(tmp_path):
    experiment = loaded(tmp_path, "systems.0.placement.race_cpu_s=0.05")
    directory = run_experiment(experiment, tmp_path / "runs", Serial(), with_report=False)
    manifest = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
    (told,) = [one for one in manifest["assumptions"] if one.startswith("helix: Trial 1")]
    assert "of race_cpu_s 0.05" in told
