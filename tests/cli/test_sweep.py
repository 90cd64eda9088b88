"""``sweep`` as a user meets it: the same results however it is run, nothing lost and nothing repeated, clear faults."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny import tiny

from helixsim import yamlio
from helixsim.cli.main import main
from helixsim.config.sweep_file import load_sweep
from helixsim.errors import ConfigError
from helixsim.planning.sweep import prepare
from helixsim.results.sweep import _interval

EXPERIMENT = tiny()

SWEEP = {
    "schema": 1,
    "base": "tiny.yaml",
    "seeds": 2,
    "axes": [
        {"path": "workload.arrivals.rate", "values": [1, 2]},
        {"path": "cluster.network.intra_region.bandwidth", "values": ["1 Gbit/s", "10 Gbit/s"]},
    ],
    "plots": [],
}


@pytest.fixture
def sweep(tmp_path):
    """Write a sweep file with some keys changed and return its path."""
    (tmp_path / "tiny.yaml").write_text(EXPERIMENT, encoding="utf-8")

    def write(**changes) -> Path:
        path = tmp_path / "sweep.yaml"
        path.write_text(yamlio.dump({**SWEEP, **changes}), encoding="utf-8")
        return path

    return write


def results(out: Path) -> dict[str, bytes]:
    """All files of the sweep's own directory."""
    (directory,) = (path for path in (out / "sweeps").rglob("*") if (path / "sweep.json").exists())
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


def rows(out: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(results(out)["results.csv"].decode().splitlines()))


def points(out: Path) -> list[Path]:
    return [path.parent for path in sorted((out / "tiny").glob("*/manifest.json"))]


def test_results_do_not_depend_on_how_they_are_computed(sweep, tmp_path, capsys):
    path = sweep(plots=[{"kind": "pareto", "x": "cost_usd_per_mtok", "y": "output_throughput"}])
    left, said = [], []
    for name, how in (("a", ["--executor", "serial"]), ("b", ["--jobs", "2"])):
        assert main(["sweep", str(path), "--out", str(tmp_path / name), "-q", *how]) == 0
        left.append(results(tmp_path / name))
        said.append(capsys.readouterr().out)
    assert left[0] == left[1]
    assert said[0] == said[1]
    assert {"results.csv", "means.csv", "report.html", "report.md", "sweep.json"} <= set(left[0])
    assert {f"figures/1-pareto.{suffix}" for suffix in ("svg", "png", "csv")} <= set(left[0])
    table = rows(tmp_path / "a")
    assert len(table) == 2 * 2 * 2
    assert [row["seed"] for row in table] == ["0"] * 4 + ["1"] * 4
    for row in table:
        summary = json.loads((tmp_path / "a" / row["run"] / "summary.json").read_text())["systems"]["swarm"]
        assert float(row["output_throughput"]) == pytest.approx(summary["output_throughput"], rel=1e-8)


def test_all_points_of_a_seed_see_the_same_requests(sweep, tmp_path):
    assert main(["sweep", str(sweep()), "--out", str(tmp_path), "-q", "--executor", "serial"]) == 0
    seen: dict[tuple[str, str], set[str]] = {}
    for row in rows(tmp_path):
        table = (tmp_path / row["run"] / "requests" / "swarm.csv").read_text().splitlines()
        requests = "\n".join(",".join(line.split(",")[i] for i in (0, 2, 6)) for line in table)
        seen.setdefault((row["workload.arrivals.rate"], row["seed"]), set()).add(requests)
    assert len(seen) == 4
    assert all(len(variants) == 1 for variants in seen.values())


def test_a_point_is_a_run_like_any_other(sweep, tmp_path, capsys):
    out = str(tmp_path / "runs")
    assert main(["sweep", str(sweep(seeds=1)), "--out", out, "-q", "--executor", "serial"]) == 0
    overrides = ["workload.arrivals.rate=2", "cluster.network.intra_region.bandwidth=1 Gbit/s"]
    sets = [word for text in overrides for word in ("--set", text)]
    capsys.readouterr()
    assert main(["run", str(tmp_path / "tiny.yaml"), "--out", out, "--jobs", "1", *sets]) == 0
    assert "cached (use --force to rerun)" in capsys.readouterr().err
    assert sum((point / "report.html").exists() for point in points(tmp_path / "runs")) == 1  # made when asked for


def test_finished_points_are_not_repeated_and_missing_ones_not_lost(sweep, tmp_path, capsys):
    path, out = sweep(), tmp_path / "runs"
    arguments = ["sweep", str(path), "--out", str(out), "--executor", "serial"]
    assert main([*arguments, "--resume"]) == 2
    assert "no sweep of" in capsys.readouterr().err
    assert main([*arguments, "-q"]) == 0
    whole = results(out)
    stamps = {point: (point / "manifest.json").stat().st_mtime_ns for point in points(out)}
    lost = points(out)[2]
    (lost / "manifest.json").unlink()
    assert main([*arguments, "--resume", "-q"]) == 0
    after = {point: (point / "manifest.json").stat().st_mtime_ns for point in points(out)}
    assert set(after) == set(stamps)
    assert [point for point in after if after[point] != stamps[point]] == [lost]
    assert results(out) == whole


def test_a_failing_point_is_reported_with_its_settings_and_stops_nobody(sweep, tmp_path, capsys):
    axes = [{"path": "model", "values": ["llama-2-7b", "llama-2-70b"]}]
    arguments = ["sweep", str(sweep(axes=axes, seeds=1)), "--out", str(tmp_path), "--executor", "serial"]
    assert main([*arguments, "--strict"]) == 4
    assert "helixsim: error: point 1" in capsys.readouterr().err
    assert main(arguments) == 0
    streams = capsys.readouterr()
    assert "helixsim: warning: point 1" in streams.err
    assert "does not fit" in streams.err
    assert "--set 'model=\"llama-2-70b\"'" in streams.err
    assert len(rows(tmp_path)) == 1
    assert b"does not fit" in results(tmp_path)["failed.csv"]
    assert "Failures" in results(tmp_path)["report.md"].decode()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"axes": [{"path": "workload.arivals.rate", "values": [1]}]},
            "sweep.yaml:6:12: workload.arivals: unknown key",
        ),
        ({"axes": [{"path": "workload.arivals.rate", "values": [1]}]}, "did you mean 'arrivals'?"),
        ({"axes": [{"path": "workload.arrivals.rate", "values": [1, "fast"]}]}, "not a rate: 'fast'"),
        ({"axes": [{"path": "cluster.nodes.7.count", "values": [1]}]}, "no entry '7'"),
        ({"set": {"sed": 1}}, "unknown key 'sed'"),
        ({"base": "nowhere.yaml"}, "no such file"),
        ({"axes": []}, "must not be empty"),
        ({"axes": [{"path": "seed"}]}, "a path needs either values, or from, to and steps"),
        ({"axes": [{"path": "seed", "from": 1, "to": 2}]}, "a path needs either values, or from, to and steps"),
        ({"axes": [{"zip": {"seed": [1], "model": ["a", "b"]}}]}, "lists of one length"),
        ({"axes": [{"path": "seed", "values": [1], "zip": {"model": ["a"]}}]}, "give one of path, zip, list, sample"),
        ({"axes": [{"path": "seed", "values": [1]}, {"path": "seed", "values": [2]}]}, "already an axis"),
        ({"axes": [{"path": "seed", "from": "1 ms", "to": "2 s", "steps": 3}]}, "the same unit"),
        ({"axes": [{"path": "seed", "from": 0, "to": 2, "steps": 3, "scale": "log"}]}, "ends above zero"),
        ({"seeds": [1, 1]}, "without repetition"),
        ({"objective": {"metric": "output_throughputt"}}, "did you mean 'output_throughput'?"),
        ({"plots": [{"kind": "lines", "x": "rate", "y": "output_throughput"}]}, "unknown axis 'rate'"),
    ],
)
def test_faults_of_a_sweep_file_have_a_place_and_a_reason(sweep, tmp_path, capsys, changes, message):
    arguments = ["sweep", str(sweep(**changes)), "--out", str(tmp_path / "runs"), "-q", "--executor", "serial"]
    assert main(arguments) == 2
    streams = capsys.readouterr()
    assert message in streams.err
    assert streams.out == ""


def test_a_key_that_does_not_exist_is_one_fault_however_many_values_it_has(sweep, tmp_path, capsys):
    axes = [{"path": "workload.arivals.rate", "values": [1, 2, 3]}]
    assert main(["sweep", str(sweep(axes=axes)), "--out", str(tmp_path / "runs"), "-q"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "sweep.yaml:6:12: workload.arivals: unknown key" in line


def test_the_command_line_changes_the_experiment_and_the_seeds(sweep, tmp_path, capsys):
    command = ["sweep", str(sweep()), "--out", str(tmp_path), "-q", "--executor", "serial", "--seeds", "1"]
    assert main([*command, "--set", "workload.duration=5 s", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["seeds"], len(document["points"])) == ([0], 4)
    assert {row["duration"] for row in rows(tmp_path)} == {"5"}
    for wrong, message in (("workload.duratoin=5 s", "did you mean 'duration'"), ("seed", "expected key.path=value"),
                           ("workload.arrivals.rate=2", "is also an axis")):  # fmt: skip
        assert main([*command, "--set", wrong]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert f"--set {wrong}" in error


def test_a_dask_scheduler_that_does_not_answer_is_a_usage_error(sweep, tmp_path, capsys, monkeypatch):
    pytest.importorskip("dask.distributed")
    monkeypatch.setattr("helixsim.runtime.executors._TIMEOUT_S", 1)
    assert main(["sweep", str(sweep()), "--out", str(tmp_path), "-q", "--dask", "tcp://127.0.0.1:9"]) == 2
    assert "no scheduler answered" in capsys.readouterr().err


def test_axes_zip_list_steps_and_samples(sweep):
    axes = [
        {"path": "workload.arrivals.rate", "from": 1, "to": 4, "steps": 3, "scale": "log"},
        {"zip": {"cluster.nodes.0.count": [1, 2], "cluster.nodes.1.count": [4, 3]}},
        {"list": [{"precision": "fp16", "kv_precision": "fp16"}, {"precision": "int8", "kv_precision": "int8"}]},
    ]
    planned = prepare(load_sweep(sweep(axes=axes, seeds=[4, 9])))
    assert len(planned.points) == 2 * 3 * 2 * 2
    rates = list(dict.fromkeys(dict(point.values)["workload.arrivals.rate"] for point in planned.points))
    assert rates == [1.0, 2.0, 4.0]
    counts = {tuple(dict(p.values)[f"cluster.nodes.{i}.count"] for i in (0, 1)) for p in planned.points}
    assert counts == {(1, 4), (2, 3)}
    first, second = planned.points[0], planned.points[12]
    assert (first.values, first.seed, second.seed) == (second.values, 4, 9)
    assert {edit.text for edit in set(second.edits) - set(first.edits)} == {"seed=9", "planning.seed=4"}


def test_a_latin_hypercube_takes_one_value_of_each_part(sweep):
    over = [
        {"path": "workload.arrivals.rate", "from": 1, "to": 3},
        {"path": "cluster.network.intra_region.bandwidth", "from": "1 Gbit/s", "to": "16 Gbit/s", "scale": "log"},
        {"path": "cluster.nodes.0.count", "from": 1, "to": 8, "whole": True},
        {"path": "precision", "values": ["fp16", "int8"]},
    ]
    planned = prepare(load_sweep(sweep(axes=[{"sample": {"points": 8, "over": over}}], seeds=1)))
    drawn = [dict(point.values) for point in planned.points]
    assert sorted(int((point["workload.arrivals.rate"] - 1) / 2 * 8) for point in drawn) == list(range(8))
    gigabits = sorted(float(point["cluster.network.intra_region.bandwidth"].split()[0]) for point in drawn)
    assert all(16 ** (i / 8) <= value <= 16 ** ((i + 1) / 8) for i, value in enumerate(gigabits))
    assert all(isinstance(point["cluster.nodes.0.count"], int) for point in drawn)
    assert sorted(point["precision"] for point in drawn) == ["fp16"] * 4 + ["int8"] * 4
    again = prepare(load_sweep(sweep(axes=[{"sample": {"points": 8, "over": over[:1]}}], seeds=1)))
    assert [dict(p.values)["workload.arrivals.rate"] for p in again.points] == [
        point["workload.arrivals.rate"] for point in drawn
    ]


def test_parquet_tables_hold_what_the_csv_tables_hold(sweep, tmp_path, capsys, monkeypatch):
    path = sweep(axes=[{"path": "workload.arrivals.rate", "values": [1, "120 /min"]}], seeds=1)
    command = ["sweep", str(path), "--out", str(tmp_path / "runs"), "-q", "--executor", "serial", "--parquet"]
    with monkeypatch.context() as without:
        without.setattr("helixsim.report.sweep_files.find_spec", lambda _name: None)
        assert main(command) == 2
        assert "pip install 'helixsim[parquet]'" in capsys.readouterr().err
    pytest.importorskip("pyarrow")
    import pandas as pd

    assert main(command) == 0
    (stored,) = (tmp_path / "runs" / "sweeps").rglob("results.parquet")
    table = pd.read_parquet(stored)
    assert [str(value) for value in table["workload.arrivals.rate"]] == ["1", "120 /min"]
    kept = [float(row["output_throughput"]) for row in rows(tmp_path / "runs")]
    assert table["output_throughput"].tolist() == pytest.approx(kept, rel=1e-8)


def test_means_have_students_interval():
    mean, low, high = _interval([1.0, 2.0, 3.0])
    assert (mean, high - 2.0, low) == pytest.approx((2.0, 4.302653 / 3**0.5, 0.0), rel=1e-6)  # never below zero
    assert _interval([5.0]) == (5.0, None, None)
    assert _interval([5.0, None]) == (None, None, None)


def test_a_sweep_of_a_sweep_file_that_is_no_mapping(tmp_path):
    path = tmp_path / "sweep.yaml"
    path.write_text("- 1\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="mapping"):
        load_sweep(path)


def spawn(path: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "helixsim", "sweep", str(path), "--out", str(out), "--jobs", "2", "-q", *more],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def children(pid: int) -> list[int]:
    """Return the processes a process has started, on systems that tell."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
            command = (status.parent / "cmdline").read_text()
        except OSError:
            continue
        if int(fields[1]) == pid and "spawn_main" in command:
            found.append(int(status.parent.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_killed_at_random_moments_the_result_is_that_of_an_undisturbed_run(sweep, tmp_path):
    """Twenty kills by SIGKILL, half of the driver, half of a worker; then the result equals an undisturbed one."""
    axes = [{"path": "workload.arrivals.rate", "from": 1, "to": 4, "steps": 8}, SWEEP["axes"][1]]
    path = sweep(axes=axes, set={"workload.duration": "120 s"})
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    spawn(path, calm).communicate()
    chance, finished_before = random.Random(5), set()
    kills = 0
    while kills < 20:
        process = spawn(path, rough)  # without --resume: a kill may come before anything has begun
        time.sleep(chance.uniform(2.0, 6.0))
        if process.poll() is not None:  # done before we could strike: take some points away and go on
            _, err = process.communicate()
            assert process.returncode == 0, err
            for point in points(rough)[::2]:
                (point / "manifest.json").unlink()
            finished_before = set(points(rough))
            continue
        workers = children(process.pid)
        if kills % 2 and workers:
            os.kill(chance.choice(workers), signal.SIGKILL)
            time.sleep(0.5)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += 1
        finished = set(points(rough))
        assert finished_before <= finished  # nothing that was finished is lost
        finished_before = finished
    stamps = {point: (point / "manifest.json").stat().st_mtime_ns for point in points(rough)}
    last = spawn(path, rough, "--resume")
    _, err = last.communicate()
    assert last.returncode == 0, err
    assert all((point / "manifest.json").stat().st_mtime_ns == stamp for point, stamp in stamps.items())
    assert results(rough) == results(calm)
    files = [{p.relative_to(out): p.read_bytes() for p in sorted((out / "tiny").rglob("*.*"))
              if p.is_file() and p.name != "manifest.json"} for out in (calm, rough)]  # fmt: skip
    assert files[0] == files[1]


def test_figures_are_chosen_by_the_axes(sweep, tmp_path):
    assert main(["sweep", str(sweep(plots=None, seeds=1)), "--out", str(tmp_path), "-q", "--executor", "serial"]) == 0
    drawn = {name for name in results(tmp_path) if name.endswith(".svg")}
    assert drawn == {f"figures/{name}.svg" for name in ("1-lines", "2-lines", "3-heatmap", "4-pareto", "charts")}


@pytest.mark.slow
def test_a_dask_cluster_gives_the_same_bytes(sweep, tmp_path):
    pytest.importorskip("dask.distributed")
    path = sweep()
    for name, how in (("a", ["--jobs", "2"]), ("b", ["--dask", "local", "--jobs", "2"])):
        done = subprocess.run(
            [sys.executable, "-m", "helixsim", "sweep", path, "--out", tmp_path / name, "-q", *how],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
    assert results(tmp_path / "a") == results(tmp_path / "b")
