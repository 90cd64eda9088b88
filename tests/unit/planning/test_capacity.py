"""The search for capacities: finds what a scan of all rates finds, and says so when there is nothing to find."""

from __future__ import annotations

import functools
import json
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import helixsim
from helixsim.cli.main import main
from helixsim.domain.request import Slo
from helixsim.metrics.objectives import Target, evaluate_target
from helixsim.planning.capacity import (
    SearchOptions,
    SearchTask,
    capacity_targets,
    find_capacity,
    highest_pass,
)
from helixsim.study import trials
from helixsim.study.systems import patience_for, simulate_system
from helixsim.study.trials import at_rate

EXPERIMENT = """\
schema: 1
name: tiny
model: llama-2-7b
cluster:
  nodes:
    - {gpu: l4, count: 1}
    - {gpu: t4, count: 2}
  network:
    intra_region: {bandwidth: 10 Gbit/s, latency: 1 ms}
workload:
  lengths: {distribution: fixed, prompt_tokens: 200, output_tokens: 20}
  arrivals: {process: poisson, rate: 2 /s}
  warmup: 2 s
  duration: 8 s
systems:
  - {name: swarm, placement: swarm}
slo: {ttft: 400 ms, tpot: 120 ms}
slo_targets:
  relaxed: {ttft: 2 s, tpot: 1 s}
"""


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(EXPERIMENT, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def patient(tmp_path_factory):
    path = tmp_path_factory.mktemp("patient") / "tiny.yaml"
    path.write_text(EXPERIMENT, encoding="utf-8")
    experiment = helixsim.load_experiment(path)
    return experiment, helixsim.place(experiment, "swarm")


@given(
    limit=st.integers(-60, 60), start=st.integers(-50, 50), stride=st.integers(1, 9), lowest=st.integers(-60, -50),
    highest=st.integers(50, 60),
)  # fmt: skip
def test_the_last_that_passes_is_found_with_few_trials(limit, start, stride, lowest, highest):
    asked = []

    def passes(k):
        assert lowest <= k <= highest
        asked.append(k)
        return k <= limit

    found = highest_pass(passes, start, stride, lowest, highest)
    assert found == (None if limit < lowest else min(limit, highest))
    assert len(set(asked)) == len(asked) <= 16


@given(st.lists(st.booleans(), min_size=41, max_size=41), st.integers(-20, 20))
def test_where_passing_comes_and_goes_an_end_of_it_is_found(verdicts, start):
    found = highest_pass(lambda k: verdicts[k + 20], start, 4, -20, 20)
    if found is not None:
        assert verdicts[found + 20]
        assert found == 20 or not verdicts[found + 21]


def test_the_search_agrees_with_a_scan_of_every_rate(path):
    experiment = helixsim.load_experiment(path)
    placed = helixsim.place(experiment, "swarm")
    targets = capacity_targets(experiment, 99.0, None)
    options = SearchOptions(tolerance=0.1, seeds=2, with_curve=False)
    task = SearchTask(experiment, placed.system, placed, targets, 0.1, experiment.seed, (None,) * len(targets))
    found = find_capacity(task, options)

    @functools.cache
    def run_at(rate_rps, seed):
        arrivals = at_rate(experiment, placed.system, rate_rps)
        return simulate_system(experiment, replace(placed, system=replace(placed.system, arrivals=arrivals)), seed=seed)

    for one in found.estimates:
        target = next(target for target in targets if target.name == one.target)
        for seed, rate in enumerate(one.by_seed):

            def is_met(rate_rps, seed=seed, target=target):
                return evaluate_target(run_at(rate_rps, seed), target).is_met

            assert is_met(rate)
            assert not is_met(rate * 1.1)
            scanned = {k: is_met(found.max_flow_rps * 1.1**k) for k in range(-12, 25)}
            last_pass = max(k for k, met in scanned.items() if met)
            first_miss = min(k for k, met in scanned.items() if not met)  # at most last_pass + 1: so if all is monotone
            k = round(math.log(rate / found.max_flow_rps) / math.log(1.1))
            assert first_miss - 1 <= k <= last_pass
    strict, relaxed = found.estimates
    assert strict.rate_rps < relaxed.rate_rps
    assert "TTFT p99" in strict.binds or "TPOT p99" in strict.binds
    assert relaxed.low_rps <= relaxed.rate_rps <= relaxed.high_rps
    assert {trial.seed for trial in found.trials} == {0, 1}


def test_verdicts_follow_the_requests(path):
    experiment = helixsim.load_experiment(path)
    run = simulate_system(experiment, helixsim.place(experiment, "swarm"))
    ttft = sorted((run.requests.first_token_ns - run.requests.arrival_ns)[
        (run.requests.first_token_ns > run.window_start_ns) & (run.requests.first_token_ns <= run.window_end_ns)
    ].tolist())  # fmt: skip
    for share in (0.5, 0.9):
        needed = -(-len(ttft) * share // 1)
        limit_s = ttft[int(needed) - 1] / 1e9
        assert evaluate_target(run, Target("x", Slo(ttft_s=limit_s * 1.0001), 100 * share)).is_met
        missed = evaluate_target(run, Target("x", Slo(ttft_s=limit_s * 0.9999), 100 * share))
        assert not missed.is_met
        assert missed.slack == pytest.approx(0.9999)
        assert f"TTFT p{100 * share:g}" in missed.misses[0]
    both = Target("x", Slo(ttft_s=100.0, tpot_s=1e-6), 50, 0.9)
    assert [miss.split()[0] for miss in evaluate_target(run, both).misses] == ["TPOT", "0.0%"]


def test_capacity_prints_writes_and_is_found_again(path, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["capacity", str(path), "--out", str(out), "--executor", "serial", "--tolerance", "10%", "--seeds", "1"]
    assert main([*arguments, "-q"]) == 0
    text = capsys.readouterr().out
    assert "relaxed" in text
    assert ": Limit" in text
    assert main([*arguments, "-q", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    rates = {name: one["requests_per_s"] for name, one in document["systems"]["swarm"]["targets"].items()}
    assert 0 < rates["slo"] < rates["relaxed"]
    (page,) = out.rglob("report.md")
    assert "What is the capacity of tiny?" in page.read_text()
    files = {path.name: path.read_bytes() for path in page.parent.iterdir() if path.is_file()}
    assert main([*arguments[:3], str(tmp_path / "again"), "--jobs", "2", *arguments[6:], "-q"]) == 0
    (other,) = (tmp_path / "again").rglob("report.md")
    assert files == {path.name: path.read_bytes() for path in other.parent.iterdir() if path.is_file()}


def test_an_interrupted_search_goes_on_where_it_was(path, tmp_path, monkeypatch, capsys):
    """No simulation is repeated, and the result is that of a search nobody has disturbed."""
    left: dict[str, int] = {}
    simulate = trials.simulate_system

    def counted(*arguments, **named):
        if not left["simulations"]:
            raise KeyboardInterrupt
        left["simulations"] -= 1
        return simulate(*arguments, **named)

    def search(out, simulations):
        left["simulations"] = simulations
        monkeypatch.setattr(trials, "simulate_system", counted)
        options = ["--executor", "serial", "--tolerance", "10%", "--seeds", "2", "-q"]
        code = main(["capacity", str(path), "--out", str(tmp_path / out), *options])
        return code, simulations - left["simulations"], capsys.readouterr()

    code, needed, _ = search("calm", 1000)
    assert code == 0
    code, done, streams = search("rough", needed // 2)
    assert (code, done) == (130, needed // 2)
    assert "repeat the command to continue" in streams.err
    assert search("rough", 1000)[:2] == (0, needed - done)
    pages = [next((tmp_path / out).rglob("report.md")).parent for out in ("calm", "rough")]
    files = [{p.name: p.read_bytes() for p in page.iterdir() if p.is_file()} for page in pages]
    assert files[0] == files[1]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--set", "slo={}", "--set", "slo_targets={}"], 2, "states no objective"),
        (["--set", "workload.arrivals={process: saturate}"], 2, "have no rate to search"),
        (["--set", "slo={ttft: 1 us}", "--set", "slo_targets={}"], 6, "no system meets slo at any rate"),
        (["--tolerance", "2"], 2, "expected a share"),
        (["--percentile", "0"], 2, "expected a percentile"),
        (["--set", "systems.0.placement={strategy: swarm, stages: 9}"], 4, "9 stages"),
    ],
)
def test_what_cannot_be_searched_says_why(path, tmp_path, capsys, arguments, code, message):
    command = ["capacity", str(path), "--out", str(tmp_path), "--executor", "serial", "--seeds", "1", "-q"]
    assert main([*command, *arguments]) == code
    assert message in capsys.readouterr().err


@settings(max_examples=15, deadline=None)
@given(st.floats(0.5, 40.0), st.integers(0, 3), st.sampled_from([50.0, 90.0, 99.0]))
def test_a_run_ended_early_is_judged_as_the_whole(patient, rate_rps, seed, percentile):
    experiment, placed = patient
    targets = [replace(target, percentile=percentile) for target in capacity_targets(experiment, 99.0, None)]
    at = replace(placed, system=replace(placed.system, arrivals=at_rate(experiment, placed.system, rate_rps)))
    patience = patience_for(experiment, at.system, seed, targets)
    whole = simulate_system(experiment, at, seed=seed)
    part = simulate_system(experiment, at, seed=seed, patience=patience)
    assert part.window_end_ns - part.window_start_ns >= patience.least_ns
    for target in targets:
        assert evaluate_target(part, target).is_met == evaluate_target(whole, target).is_met
    if part.window_end_ns == whole.window_end_ns:
        assert part.requests.finish_ns.tolist() == whole.requests.finish_ns.tolist()
    else:
        assert not any(evaluate_target(part, target).is_met for target in targets)
        before = part.requests.finish_ns > 0
        assert (part.requests.finish_ns[before] == whole.requests.finish_ns[: len(before)][before]).all()


def test_a_hopeless_run_is_ended_early_and_only_where_that_is_certain(patient):
    experiment, placed = patient
    at = replace(placed, system=replace(placed.system, arrivals=at_rate(experiment, placed.system, 40.0)))
    targets = capacity_targets(experiment, 99.0, None)
    part = simulate_system(experiment, at, patience=patience_for(experiment, at.system, 0, targets))
    assert part.window_end_ns < simulate_system(experiment, at).window_end_ns
    no_ttft = [*targets, Target("slow", Slo(tpot_s=9.0))]
    assert patience_for(experiment, at.system, 0, no_ttft) is None
