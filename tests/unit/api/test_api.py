"""The public API: what README shows runs, agrees with the command line, and fails with its errors."""

from __future__ import annotations

import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

import helixsim as hx
from helixsim import yamlio
from helixsim.cli.main import main
from helixsim.errors import ConfigError, DataError

YAML = """\
schema: 1
name: tiny
model: llama-2-7b
cluster:
  nodes:
    - {gpu: l4, count: 2}
    - {gpu: t4, count: 2}
  network:
    intra_region: {bandwidth: 8 Gbit/s, latency: 1 ms}
workload:
  arrivals: {process: poisson, rate: 2}
  lengths: {distribution: fixed, prompt_tokens: 200, output_tokens: 20}
  warmup: 2 s
  duration: 20 s
systems:
  - {placement: swarm}
  - {placement: petals}
slo: {ttft: 2 s, tpot: 1 s}
"""


def tiny() -> hx.Experiment:
    return hx.Experiment(
        "llama-2-7b",
        hx.Cluster({"l4": 2, "t4": 2}, link="8 Gbit/s, 1 ms"),
        load=hx.poisson(2, (200, 20)),
        window=("2 s", "20 s"),
        slo=hx.Slo(ttft="2 s", tpot="1 s"),
        systems=["swarm", "petals"],
        name="tiny",
    )


def test_an_experiment_built_in_python_is_the_one_written_in_yaml(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(YAML, encoding="utf-8")
    assert tiny().resolve().config_hash == hx.load(path).resolve().config_hash
    assert tiny().document == hx.load(path).document


def test_runs_from_python_are_those_of_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(YAML, encoding="utf-8")
    runs = tiny().run(jobs=1)
    (directory,) = (tmp_path / "runs" / "tiny").iterdir()
    ours = (directory / "summary.json").read_bytes()
    assert main(["run", "tiny.yaml", "--out", "other", "--jobs", "1", "-q"]) == 0
    (theirs,) = (tmp_path / "other").rglob("summary.json")
    assert theirs.read_bytes() == ours
    table = runs.table()
    assert list(table.index) == ["swarm", "petals"] == list(runs)
    assert table.loc["petals", "ttft_p99_s"] == runs["petals"].summary.ttft.p99_s
    requests = runs["petals"].requests
    assert {"arrival_ns", "first_token_ns", "prompt_tokens"} <= set(requests.columns)
    assert (requests["prompt_tokens"] == 200).all()
    assert set(runs["petals"].placement.ranges) <= {"l4-0", "l4-1", "t4-0", "t4-1"}
    assert "<table" in runs._repr_html_()
    assert len(repr(runs)) < 200


def test_with_returns_another_experiment_of_the_same_kind():
    base = tiny()
    faster = base.with_({"workload.arrivals.rate": 3}, seed=7)
    assert type(faster) is hx.Experiment
    assert (faster.resolve().workload.arrivals.rate_rps, faster.resolve().seed) == (3, 7)
    assert (base.resolve().workload.arrivals.rate_rps, base.resolve().seed) == (2, 0)


def test_place_and_simulate():
    experiment = tiny()
    placed = hx.place(experiment, "petals")
    result = hx.simulate(experiment, placed)
    assert placed.plan.max_flow_tokens_per_s > 0
    assert len(result.requests.request_id) > 10
    with pytest.raises(ConfigError, match="did you mean 'petals'"):
        hx.place(experiment, "petal")


def test_a_sweep_has_a_row_for_each_point_seed_and_system(tmp_path):
    found = hx.sweep(tiny(), {"workload.arrivals.rate": [1, 2]}, seeds=2, out=tmp_path, jobs=1)
    table = found.table()
    assert len(table) == 2 * 2 * 2
    row = table.iloc[-1]
    run = hx.read(row["run"])[row["system"]]
    assert (row["ttft_p99_s"], row["requests_per_s"]) == (
        run.summary.ttft.p99_s, run.summary.throughput.requests_per_s,
    )  # fmt: skip
    means = found.means()
    of_system = table[table["system"] == "petals"].groupby("workload.arrivals.rate")["output_tokens_per_s"].mean()
    assert means[means["system"] == "petals"]["output_tokens_per_s"].tolist() == pytest.approx(of_system.tolist())
    assert (means["output_tokens_per_s.low"] <= means["output_tokens_per_s"]).all()
    assert set(found.rows[0]) >= set(hx.read(row["run"]).table().columns)
    assert "4 points" in repr(found)
    assert "<table" in found._repr_html_()
    with pytest.raises(ConfigError, match="arivals"):
        hx.sweep(tiny(), {"workload.arivals.rate": [1]}, out=tmp_path, jobs=1)
    with pytest.raises(ConfigError, match="at least one key"):
        hx.sweep(tiny(), {"seed": []}, out=tmp_path, jobs=1)
    with pytest.raises(ConfigError, match="did you mean 'ttft_p99_s'"):
        found.plot.lines("ttft_p99")


def test_capacity_has_a_row_for_each_system_and_is_read_back(tmp_path):
    short = tiny().with_({"workload.duration": "5 s"})
    found = hx.capacity(short, seeds=1, tolerance=0.3, out=tmp_path, jobs=1)
    assert list(found.table()["system"]) == ["swarm", "petals"]
    assert (found.table()["requests_per_s"] > 0).all()
    assert "petals" in repr(found)
    assert "<table" in found._repr_html_()
    again = hx.read(found.directory)
    assert again.document() == found.document()
    assert again.window_s == (2, 5)
    assert set(again.trials_table()["system"]) == {"swarm", "petals"}


def test_a_run_read_back_has_times_tables_and_what_failed(tmp_path):
    layers = tmp_path / "layers.json"
    layers.write_text('{"layers": {"l4-0": [0, 16]}}', encoding="utf-8")  # half of the model
    broken = {"placement": {"strategy": "fixed", "file": str(layers)}, "name": "cannot"}
    experiment = tiny().with_(systems=["swarm", broken])
    fresh = experiment.run(tmp_path, jobs=1)
    again = hx.read(fresh.directory)
    for runs in (fresh, again):
        assert list(runs) == ["swarm"]
        assert runs.failed["cannot"][0] == 4
        assert "failed: cannot" in repr(runs)
        assert runs["swarm"].timing["cpu_seconds"] > 0
    assert again.document() == fresh.document()
    with pytest.raises(DataError, match="which has tables and figures only"):
        assert again["swarm"].simulation
    (fresh.directory / "summary.json").write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match="damaged"):
        hx.read(fresh.directory)
    with pytest.raises(DataError, match="no results"):
        hx.read(tmp_path)


def test_placements_have_a_frontier_a_table_and_a_file_that_fixed_reads(tmp_path):
    experiment = tiny().with_(systems=["helix", "swarm"])
    placed = hx.place(experiment, "helix")
    frontier = placed.frontier
    assert frontier["max_flow_tokens_per_s"].is_monotonic_decreasing
    assert frontier["is_chosen"].sum() == 1
    best = frontier[frontier["on_frontier"]]
    assert best["max_hops"].is_monotonic_decreasing
    assert best["max_hops"].is_unique
    chosen = frontier[frontier["is_chosen"]].iloc[0]
    assert chosen["max_flow_tokens_per_s"] == pytest.approx(placed.plan.max_flow_tokens_per_s)
    table = placed.table()
    assert (table["layer_end"] - table["layer_start"]).sum() >= 32
    assert len(hx.place(experiment, "swarm").frontier) == 1
    path = tmp_path / "placement.json"
    placed.save(path)
    again = hx.place(tiny().with_(systems=[{"placement": {"strategy": "fixed", "file": str(path)}}]), "fixed")
    assert again.placement.ranges == placed.placement.ranges
    assert max(len(repr(placed)), len(repr(again))) < 200
    assert "<table" in placed._repr_html_()


def test_systems_and_objectives_are_changed_in_the_form_they_are_given_in():
    base = tiny().with_(
        systems=["petals"], slo=hx.Slo(tpot="100 ms"), cluster=hx.Cluster({"l4": 4}, link="ethernet-10g")
    )
    resolved = base.resolve()
    assert [system.name for system in resolved.systems] == ["petals"]
    assert (resolved.slo.ttft_s, resolved.slo.tpot_s) == (None, 0.1)
    assert len(resolved.fleet.cluster.nodes) == 4


@pytest.mark.parametrize(
    ("load", "process"),
    [
        (hx.gamma(2, 0.5, (200, 20)), "gamma"),
        (hx.constant(2, (200, 20)), "constant"),
        (hx.closed_loop(4, (200, 20)), "closed_loop"),
        (hx.saturate({"distribution": "fixed", "prompt_tokens": 200, "output_tokens": 20}), "saturate"),
    ],
)
def test_every_load_resolves(load, process):
    found = hx.Experiment(
        "llama-2-7b", hx.Cluster({"l4": 4}, link="ethernet-10g"), load=load, window=("1 s", "5 s"), systems=["petals"]
    )
    assert found.resolve().workload.arrivals.process == process


def test_faults_name_the_key(tmp_path):
    wrong = hx.Experiment(
        "llama-2-7b",
        hx.Cluster({"l5": 1}, link="8 Gbit/s"),
        load=hx.poisson(-1),
        systems=["petals"],
        window=("0 s", "5 s"),
    )
    with pytest.raises(ConfigError) as caught:
        wrong.resolve()
    keys = {problem.path for problem in caught.value.problems}
    assert {"cluster.nodes.0.gpu", "cluster.network.intra_region", "workload.arrivals.rate"} <= keys


@pytest.mark.parametrize(
    ("code", "heavy"),
    [
        ("import helixsim", ("numpy", "pandas", "pydantic", "simpy", "matplotlib")),
        ("import helixsim as hx; hx.Slo, hx.routing", ("pandas", "matplotlib", "highspy", "jinja2", "rich")),
    ],
)
def test_importing_helixsim_imports_nothing_heavy(code, heavy):
    code += f"; import sys; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def test_a_whole_run_does_without_pandas(tmp_path):
    """It takes a tenth of a short run to load."""
    code = (
        "import sys; from helixsim.cli.main import main\n"
        f"main(['run', 'tests/golden/constant.yaml', '-q', '--out', {str(tmp_path)!r}])\n"
        "print([name for name in ('pandas', 'helixsim.cli.profile') if name in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3]
    )
    assert found.stdout.endswith("[]\n")
    assert list(tmp_path.rglob("report.html"))


def test_the_package_is_typed():
    assert resources.files("helixsim").joinpath("py.typed").is_file()


def test_a_fleet_is_searched_as_from_a_plan_file(tmp_path):
    from helixsim.config.plan_file import load_plan
    from helixsim.planning.fleet import find_fleet
    from helixsim.runtime.pool import Serial

    base = tiny().with_({"workload.duration": "5 s", "workload.arrivals.rate": 1}, systems=["petals"])
    (tmp_path / "base.yaml").write_text(yamlio.dump(base.document), encoding="utf-8")
    plan = (
        "schema: 1\nexperiment: base.yaml\nsimulations: 4\noffers: [{gpu: l4, available: 2}, {gpu: t4, available: 2}]\n"
    )
    (tmp_path / "plan.yaml").write_text(plan, encoding="utf-8")
    found = hx.fleet(base, {"l4": 2, "t4": 2}, simulations=4, out=tmp_path / "runs", jobs=1)
    theirs = find_fleet(load_plan(tmp_path / "plan.yaml"), tmp_path / "others", Serial())
    assert [one.counts for one in found.tried] == [one.counts for one in theirs.tried]
    assert [one.summary for one in found.ranked] == [one.summary for one in theirs.ranked]
    table = found.table()
    assert len(table) == len(found.tried)
    assert {"usd_per_hour", "ttft_p99_s", "capacity_requests_per_s"} <= set(table.columns)
    assert found.ranked[0].fleet in repr(found)
    assert "<table" in found._repr_html_()
    assert (found.directory / "report.html").is_file()
    with pytest.raises(ConfigError, match="unknown GPU 'l5'"):
        hx.fleet(base, {"l5": 1}, out=tmp_path)
