"""Systems whose replicas come and go, from exp.yaml to the report: laws of whole runs, and clear refusals."""

from __future__ import annotations

import json

import numpy as np
import pytest

import helixsim
from helixsim.errors import ConfigError
from helixsim.report.autoscaling_series import (
    autoscaling_over_time,
    bound_over_time,
    goodput_over_time,
    gpus_over_time,
    load_over_time,
)
from helixsim.results.runset import RunSet
from helixsim.runtime.pool import Serial
from helixsim.study.finished import Simulated, SimulatedStore
from helixsim.study.run import run_experiment
from helixsim.study.systems import simulate_system

SYSTEM = {"placement": "replicas", "routing": "least_loaded"}
EXPERIMENT = {
    "schema": 1,
    "name": "hour",
    "model": "llama-3.1-8b",
    "engine": "vllm-1",
    "cluster": {
        "nodes": [{"gpu": "l40s", "count": 3}],
        "network": {"intra_region": {"bandwidth": "10 Gbit/s", "latency": "0.1 ms"}},
    },
    "workload": {
        "lengths": {"distribution": "fixed", "prompt_tokens": 2000, "output_tokens": 60},
        "arrivals": {"process": "poisson", "rate": 3, "over_time": {"diurnal": {"period": "400 s", "peak": "200 s",
                                                                                  "amplitude": 0.9}}},
        "duration": "400 s",
    },
    "systems": [
        {"name": "plain", **SYSTEM},
        {"name": "fixed", **SYSTEM, "autoscaling": {"policy": "fixed", "window": "100 s"}},
        {
            "name": "target", **SYSTEM,
            "autoscaling": {"policy": "target", "metric": "in_flight", "target": 4, "interval": "5 s", "window": "50 s",
                            "stabilisation": "30 s", "startup": {"machine": "2 s", "engine": "1 s"}},
        },
    ],
    "slo": {"ttft": "2 s", "tpot": "100 ms"},
}  # fmt: skip


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    experiment = helixsim.Experiment.from_data(EXPERIMENT).resolve()
    return run_experiment(experiment, tmp_path_factory.mktemp("runs"), Serial())


def figures(directory, name):
    return json.loads((directory / "summary.json").read_text())["systems"][name]["helixsim"]


def test_a_fixed_number_serves_and_costs_as_no_autoscaling(directory):
    assert (directory / "requests" / "fixed.csv").read_bytes() == (directory / "requests" / "plain.csv").read_bytes()
    plain, fixed = figures(directory, "plain"), figures(directory, "fixed")
    assert "autoscaling" not in plain
    assert fixed["cost_usd_per_hour"] == plain["cost_usd_per_hour"]
    assert fixed["power_w"] == pytest.approx(plain["power_w"])
    assert fixed["autoscaling"]["gpu_hours"] == pytest.approx(3 * 400 / 3600)


def test_replicas_that_come_and_go_cost_less_and_never_less_than_the_perfect_autoscaler(directory):
    """Both meet the objectives, so that both pay for at least the GPU-hours that are needed."""
    fixed, target = (figures(directory, name) for name in ("fixed", "target"))
    for one in (fixed, target):
        assert one["slo_attainment"] > 0.99
        scaled = one["autoscaling"]
        assert 1 * 400 / 3600 <= scaled["bound_gpu_hours"] <= scaled["gpu_hours"] * (1 + 1e-9)
        assert scaled["bound_cost_usd"] <= scaled["cost_usd"] * (1 + 1e-9)
        assert scaled["cost_usd"] == pytest.approx(one["cost_usd_per_hour"] * 400 / 3600)
    assert target["autoscaling"]["gpu_hours"] < 0.9 * fixed["autoscaling"]["gpu_hours"]
    assert target["cost_usd_per_mtok"] < fixed["cost_usd_per_mtok"]
    assert target["power_w"] < fixed["power_w"]
    start_s = target["autoscaling"]["pools"]["l40s"]["startup_s"]
    assert start_s == pytest.approx(3 + 16.06e9 * 8 / 8e9, rel=0.01)  # 8.03e9 weights of 16 bit at 8 Gbit/s


def test_a_pool_without_use_is_as_if_it_were_not_there(tmp_path):
    """It serves nothing and costs nothing; where no pool can meet the objectives, the bound is the floor."""
    nodes = [{"gpu": "l40s", "count": 2}, {"gpu": "t4", "count": 3}, {"gpu": "v100"}]
    changes = {"workload": {**EXPERIMENT["workload"], "duration": "40 s"}, "slo": {"ttft": "2 s", "tpot": "10 ms"}}

    def run(nodes, pools):
        system = {"name": "one", **SYSTEM, "autoscaling": {"policy": "fixed", "window": "20 s", "pools": pools}}
        cluster = {**EXPERIMENT["cluster"], "nodes": nodes}
        data = {**EXPERIMENT, **changes, "cluster": cluster, "systems": [system]}
        return helixsim.Experiment.from_data(data).run(tmp_path)["one"]

    alone = run(nodes[:1], {"l40s": {"ceiling": 2}})
    unused = run(nodes, {"l40s": {"ceiling": 2}, "t4": {"floor": 0, "ceiling": 0}, "v100": {"floor": 0, "ceiling": 0}})
    assert unused.requests.equals(alone.requests)
    one, other = alone.summary.autoscaling, unused.summary.autoscaling
    assert other.gpu_hours == pytest.approx(one.gpu_hours)
    assert other.cost_usd == pytest.approx(one.cost_usd)
    assert unused.summary.cost.power_w == pytest.approx(alone.summary.cost.power_w)
    assert one.pools["l40s"].capacity_per_s == other.pools["t4"].capacity_per_s == 0
    assert other.bound_gpu_hours == pytest.approx(one.bound_gpu_hours) == pytest.approx(1 * 40 / 3600)


def test_the_series_of_the_report_agree_with_the_figures(directory):
    runs = RunSet.load(directory)
    run, scaled = runs["target"], runs["target"].summary.autoscaling
    for steps, hours in (
        (gpus_over_time(run), scaled.gpu_hours), (bound_over_time(run), scaled.bound_gpu_hours)
    ):  # fmt: skip
        area = np.diff(steps.time_s) @ steps.values[:-1]
        assert area / 3600 == pytest.approx(hours)
    load, good = load_over_time(run), goodput_over_time(run, runs.slo)
    assert (good.values <= load.values + 1e-9).all()
    assert (load.values[:-1] * 50).sum() == pytest.approx(len(run.requests))
    _, table = autoscaling_over_time(runs)  # of systems with different windows
    assert set(table["unit"]) == {"GPUs", "requests/s", "% beyond the SLO"}
    assert set(table["system"]) == {"fixed", "target", "perfect autoscaler", "offered load"}
    page = (directory / "report.html").read_text()
    assert "GPUs paid for, dashed: perfect autoscaler" in page
    assert page.count('class="guide slo"') > 3  # TTFT and TPOT, the perfect autoscaler, the load
    assert "of the perfect autoscaler" in page


def test_a_kept_run_is_read_back_as_it_was(tmp_path):
    experiment = helixsim.Experiment.from_data(EXPERIMENT).resolve()
    placed = helixsim.place(experiment, "target")
    run = simulate_system(experiment, placed)
    store = SimulatedStore(tmp_path)
    store.keep("key", Simulated(placed.placement, run))
    (pool,), (again,) = run.autoscaling.pools, store.get("key").run.autoscaling.pools
    assert again.pool == pool.pool
    assert again.paid.tolist() == pool.paid.tolist()
    assert again.starts == pool.starts > 0


FAULTS = {"events": [{"at": "40 s", "nodes": ["l40s-0"], "for": "30 s"}]}
PAIR = {"policy": "fixed", "pools": {"l40s": {"start": 2}}, "startup": {"machine": "2 s", "engine": "1 s"}}


def test_a_lost_replica_is_in_the_figures_of_its_pool_and_its_requests_in_those_of_the_faults(tmp_path):
    workload = {**EXPERIMENT["workload"], "duration": "100 s", "arrivals": {"process": "poisson", "rate": 3}}
    systems = [{"name": "pair", **SYSTEM, "autoscaling": PAIR}]
    changes = {"workload": workload, "systems": systems, "slo": {}, "faults": FAULTS}
    experiment = helixsim.Experiment.from_data({**EXPERIMENT, **changes}).resolve()
    directory = run_experiment(experiment, tmp_path, Serial())
    found = figures(directory, "pair")
    pool = found["autoscaling"]["pools"]["l40s"]
    assert (pool["lost"], pool["starts"]) == (1, 1)
    assert pool["replicas_mean"] == pytest.approx(2.0), "the second one is paid for from the detection on"
    assert found["faults"]["lost"] == found["faults"]["retried"] > 0
    assert "lost to failures" in (directory / "report.html").read_text()


def test_a_model_whose_replicas_scale_is_not_placed_anew_and_no_machines_join():
    systems = [{**SYSTEM, "autoscaling": PAIR}]
    join = {"at": "1 s", "kind": "join", "nodes": ["l40s-0"]}
    for more, words in (
        ({"reaction": "replace"}, r"faults\.reaction: replace is not simulated with autoscaling"),
        ({"events": [join]}, r"faults\.events\.0\.kind: join is not simulated with autoscaling"),
    ):
        experiment = helixsim.Experiment.from_data({**EXPERIMENT, "systems": systems, "faults": {**FAULTS, **more}})
        with pytest.raises(ConfigError, match=words):
            experiment.resolve()


@pytest.mark.parametrize(
    ("autoscaling", "path", "words"),
    [
        ({"policy": "target"}, "target", "required by target"),
        ({"policy": "schedule"}, "schedule", "required by schedule"),
        ({"policy": "queue", "least": 0.9}, "least", "queue does not use it (it uses: high, low)"),
        ({"policy": "queue", "low": 3.0}, "low", "3 is not below high (1)"),
        ({"policy": "fixed", "pools": {"l40": {}}}, "pools.l40", "did you mean 'l40s'"),
        ({"policy": "fixed", "pools": {"l40s": {"floor": 3, "ceiling": 2}}}, "pools.l40s.ceiling", "below floor (3)"),
        ({"policy": "schedule", "schedule": [{"at": "25 h", "replicas": 1}]}, "schedule.0.at", "below the period"),
        ({"policy": "hpa"}, "policy", "'hpa'"),
        ({"policy": "no_file:hpa"}, "policy", "no module 'no_file'"),
        ({"policy": "fixed", "interval": "1 us"}, "interval", "must be 1 ms or more, got 1 us"),
        ({"policy": "queue", "pools": {"l40s": {"target": 2}}}, "pools.l40s.target", "queue does not use it"),
    ],
)
def test_what_contradicts_itself_is_refused_where_it_stands(autoscaling, path, words):
    systems = [{**SYSTEM, "autoscaling": autoscaling}]
    with pytest.raises(ConfigError) as caught:
        helixsim.Experiment.from_data({**EXPERIMENT, "systems": systems}).resolve()
    assert [problem.path for problem in caught.value.problems] == [f"systems.0.autoscaling.{path}"]
    assert words in caught.value.problems[0].message


@pytest.mark.parametrize(
    ("changes", "system", "words"),
    [
        ({"engine": "helix-vllm-0.4"}, {}, "needs an engine with return: engine"),
        ({}, {"placement": {"strategy": "helix", "disaggregate": "always"}}, "not simulated with nodes with a role"),
        ({}, {"nodes": [{"match": "*", "role": "prefill"}]}, "not simulated with nodes with a role"),
    ],
)
def test_what_is_not_simulated_with_it_is_refused_before_the_search(changes, system, words):
    systems = [{**SYSTEM, **system, "autoscaling": {"policy": "fixed"}}]
    with pytest.raises(ConfigError) as caught:
        helixsim.Experiment.from_data({**EXPERIMENT, "systems": systems, **changes}).resolve()
    found = [problem.message for problem in caught.value.problems if problem.path == "systems.0.autoscaling"]
    assert any(words in message for message in found), caught.value


def test_goodput_needs_objectives_and_an_open_load():
    systems = [{**SYSTEM, "autoscaling": {"policy": "goodput"}}]
    closed = {**EXPERIMENT["workload"], "arrivals": {"process": "closed_loop", "concurrency": 4}}
    with pytest.raises(ConfigError) as caught:
        helixsim.Experiment.from_data({**EXPERIMENT, "systems": systems, "slo": {}, "workload": closed}).resolve()
    assert "needs objectives" in str(caught.value)
    assert "closed_loop arrivals adapt to the replicas" in str(caught.value)


def test_a_pool_with_more_replicas_than_there_are_is_refused():
    systems = [{**SYSTEM, "name": "one", "autoscaling": {"policy": "fixed", "pools": {"l40s": {"ceiling": 9}}}}]
    experiment = helixsim.Experiment.from_data({**EXPERIMENT, "systems": systems}).resolve()
    with pytest.raises(ConfigError, match=r"pools\.l40s\.ceiling: got 9, but the placement .* has 3 replicas"):
        simulate_system(experiment, helixsim.place(experiment, "one"))


def test_a_system_of_which_nothing_may_serve_is_refused():
    pools = {"l40s": {"floor": 0, "ceiling": 0}}
    systems = [{**SYSTEM, "name": "one", "autoscaling": {"policy": "fixed", "pools": pools}}]
    experiment = helixsim.Experiment.from_data({**EXPERIMENT, "systems": systems}).resolve()
    with pytest.raises(ConfigError, match=r"autoscaling\.pools: got a ceiling of 0 for all replicas"):
        simulate_system(experiment, helixsim.place(experiment, "one"))


def test_a_schedule_of_more_replicas_than_any_pool_has_is_refused():
    schedule = [{"at": "0 h", "replicas": 2}, {"at": "1 h", "replicas": 4}]
    systems = [{**SYSTEM, "name": "one", "autoscaling": {"policy": "schedule", "schedule": schedule}}]
    experiment = helixsim.Experiment.from_data({**EXPERIMENT, "systems": systems}).resolve()
    with pytest.raises(ConfigError, match=r"schedule\.1\.replicas: got 4, but no pool may have more than 3"):
        simulate_system(experiment, helixsim.place(experiment, "one"))


def test_replicas_on_parts_of_machines_come_and_go_under_the_type_of_the_parts():
    """As on nodes of their own: two machines of two GPUs, each divided, are four replicas of one GPU."""
    policy = {"policy": "fixed", "pools": {"l40s": {"start": 3}}, "window": "100 s"}
    systems = [{**SYSTEM, "name": "one", "autoscaling": policy}]
    found = []
    for nodes in ({"gpu": "l40s", "gpus": 2, "tp": 1, "count": 2}, {"gpu": "l40s", "count": 4}):
        cluster = {**EXPERIMENT["cluster"], "nodes": [nodes]}
        runs = helixsim.Experiment.from_data({**EXPERIMENT, "systems": systems, "cluster": cluster}).run()
        scaled = runs["one"].summary.autoscaling
        assert scaled.pools["l40s"].replicas_mean == 3
        found.append((scaled.gpu_hours, scaled.cost_usd))
    assert found[0] == pytest.approx(found[1])
    systems[0]["autoscaling"] = {"policy": "fixed", "pools": {"l40sx2": {}}}
    cluster = {**EXPERIMENT["cluster"], "nodes": [{"gpu": "l40s", "gpus": 2, "tp": 1, "count": 2}]}
    with pytest.raises(ConfigError, match=r"unknown type of nodes 'l40sx2' \(known: l40s\)"):
        helixsim.Experiment.from_data({**EXPERIMENT, "systems": systems, "cluster": cluster}).resolve()
