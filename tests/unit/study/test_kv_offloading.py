"""An experiment with host memory and disks behind the GPUs: what a run says of them, and what it keeps."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tiny import tiny

import helixsim
from helixsim.cli.main import main
from helixsim.domain.summary import Summary
from helixsim.results.runset import RunSet
from helixsim.study.finished import SimulatedStore, simulated
from helixsim.study.placing import place_system
from helixsim.study.systems import simulate_system

OFFLOADING = "{host: {size: 1 GiB}, disk: {size: 4 GiB}}"
NODES = 'nodes: [{match: "*", kv_tokens: 4096}]'
SYSTEMS = [f"{{name: {name}, placement: replicas, routing: prefix_aware, {NODES}}}" for name in ("one",)]
SESSIONS = """\
  sessions: {turns: 6, think_time: 3 s, turns_distribution: constant}
  lengths: azure-conversation
"""


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "exp.yaml"
    text = tiny(*SYSTEMS, warmup_s=0, duration_s=40)
    text = text.replace("  limits: {max_prompt_tokens: 512,", f"{SESSIONS}  limits: {{max_prompt_tokens: 1500,")
    path.write_text(text, encoding="utf-8")
    return path


def overrides(tiers=OFFLOADING):
    return ("engine=vllm-1", *([f"engine.kv_offloading={tiers}"] if tiers else ()))


def test_parts_of_the_latency_add_up_and_hits_are_those_of_the_levels(path):
    experiment = helixsim.load_experiment(path, overrides())
    run = simulate_system(experiment, place_system(experiment, experiment.systems[0]), check=True)
    rows, stats = run.requests, run.offloading
    done = rows.finish_ns >= 0
    parts = rows.queue_ns + rows.compute_ns + rows.network_ns + rows.transfer_ns + rows.load_ns
    np.testing.assert_array_equal(parts[done], (rows.finish_ns - rows.arrival_ns)[done])
    assert stats.loads > 0
    assert ((rows.load_ns > 0) >= (rows.host_tokens + rows.disk_tokens > 0))[done].all()
    assert (rows.host_tokens + rows.disk_tokens <= rows.cached_tokens).all()
    for name, asked in stats.loaded_tokens.items():
        assert asked >= getattr(rows, f"{name}_tokens").sum()
        assert 0 <= stats.peak_tokens[name] <= stats.capacity_tokens[name]
    assert stats.stored_tokens["disk"] <= stats.stored_tokens["host"]


def test_stored_simulations_keep_the_levels_and_differ_by_them(path, tmp_path):
    store = SimulatedStore(tmp_path / "kept")
    runs = []
    for tiers in (OFFLOADING, "{host: {size: 0 GiB}}", OFFLOADING):
        experiment = helixsim.load_experiment(path, overrides(tiers))
        runs.append(simulated(experiment, place_system(experiment, experiment.systems[0]), store))
    assert runs[0].offloading == runs[2].offloading
    np.testing.assert_array_equal(runs[0].requests.load_ns, runs[2].requests.load_ns)
    assert runs[0].requests.cached_tokens.sum() > runs[1].requests.cached_tokens.sum()


def test_a_run_tells_the_levels(path, tmp_path, capsys):
    told = []
    for tiers in (OFFLOADING, None):
        sets = [word for one in overrides(tiers) for word in ("--set", one)]
        out = str(tmp_path / f"runs{len(told)}")
        assert main(["run", str(path), *sets, "--out", out, "--jobs", "1", "--json"]) == 0
        told.append(json.loads(capsys.readouterr().out)["systems"]["one"])
        assert main(["run", str(path), *sets, "--out", out, "--jobs", "1", "-v"]) == 0
        assert ("found in host memory" in capsys.readouterr().out) == (tiers is not None)
    figures = told[0]["helixsim"]["kv_offloading"]
    assert "kv_offloading" not in told[1]["helixsim"]
    tiers = figures["tiers"]
    assert list(tiers) == ["gpu", "host", "disk"]
    assert sum(one["hit_tokens"] for one in tiers.values()) == told[0]["helixsim"]["prefix_hit_tokens"]
    assert tiers["host"]["hit_rate"] == pytest.approx(tiers["host"]["hit_tokens"] / told[0]["total_input_tokens"])
    assert figures["load_p50_s"] <= figures["load_p99_s"]
    assert Summary.from_json(told[0]).to_json()["helixsim"]["kv_offloading"] == figures
    (directory,) = (found.parent for found in (tmp_path / "runs0").rglob("manifest.json"))
    page = (directory / "report.html").read_text(encoding="utf-8")
    assert "KV offloading" in page
    assert "waiting for KV blocks from host memory or disk" in page
    head = (directory / "requests" / "one.csv").read_text(encoding="utf-8").splitlines()[0]
    assert head.endswith("load_ns,host_tokens,disk_tokens")
    assert RunSet.load(directory)["one"].summary.kv_offloading is not None
