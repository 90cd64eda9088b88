"""Every study leaves the same bytes wherever its tasks are carried out, and goes on after the driver is killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny import tiny

from helixsim import yamlio
from helixsim.cli.main import main
from helixsim.errors import ConfigError
from helixsim.papers.helix import entries, names
from helixsim.runtime.executors import Dask, executor

CELLS = [
    "30b-helix-offline-l4", "30b-helix-offline-t4", "--seeds", "1", "--set", "workload.warmup=1 s",
    "--set", "workload.duration=5 s",
]  # fmt: skip

STUDIES = {
    "run": ["run", "tiny.yaml"],
    "sweep": ["sweep", "sweep.yaml"],
    "capacity": ["capacity", "tiny.yaml", "--tolerance", "20%", "--seeds", "2", "--no-curve"],
    "fleet": ["fleet", "plan.yaml"],
    "figure": ["reproduce", "tinyfig", "--quick"],
    "fidelity": ["reproduce", "fidelity", *CELLS],
}
"""The commands that carry out many tasks."""

SWEEP = {"schema": 1, "base": "tiny.yaml", "axes": [{"path": "workload.arrivals.rate", "values": [1, 2]}], "plots": []}
PLAN = {
    "schema": 1,
    "name": "plan",
    "experiment": "tiny.yaml",
    "simulations": 3,
    "offers": [{"gpu": gpu, "region": "default", "available": 2} for gpu in ("l4", "t4")],
}
FIGURE = {
    "title": "Tiny",
    "parts": {"a": {"kind": "proxy", "title": "All systems", "clusters": {"tiny": {"experiment": "tiny.yaml"}}}},
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Files for all the commands, in the working directory."""
    systems = tiny("{name: swarm, placement: swarm}", "{name: petals, placement: petals}")
    (tmp_path / "tiny.yaml").write_text(systems + "slo: {ttft: 5 s, tpot: 500 ms}\n", encoding="utf-8")
    for path, content in (("sweep.yaml", SWEEP), ("plan.yaml", PLAN), ("figures/tinyfig.yaml", FIGURE)):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(yamlio.dump(content), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(names, "figures_folder", lambda: tmp_path / "figures")
    monkeypatch.setattr(entries, "figures_folder", lambda: tmp_path / "figures")
    return tmp_path


def left(out: Path) -> dict[str, bytes]:
    """All files that do not depend on the machine: neither those that tell times, nor what is kept of placements."""
    kept = {".placements", "cache", "fidelity"}
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name != "manifest.json" and not kept & set(path.parts)
    }


def outcome(name: str, out: str, capsys, *how: str) -> tuple[str, dict[str, bytes]]:
    """Return what a study says and leaves."""
    assert main([*STUDIES[name], "--out", out, "-q", *how]) == 0, capsys.readouterr().err
    return capsys.readouterr().out, left(Path(out))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in {"capacity", "fleet"} else ()) for name in STUDIES]
)
def test_two_processes_give_the_bytes_of_one(folder, name, capsys):
    said, files = outcome(name, "one", capsys, "--jobs", "1")
    assert said
    assert (said, files) == outcome(name, "two", capsys, "--jobs", "2")


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_a_dask_cluster_gives_the_bytes_of_one_process(folder, name, capsys):
    pytest.importorskip("dask.distributed")
    assert outcome(name, "one", capsys, "--jobs", "1") == outcome(name, "two", capsys, "--dask", "local", "--jobs", "2")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in STUDIES if name != "figure"])
def test_a_study_whose_driver_is_killed_goes_on(folder, name, capsys):
    """Whenever the driver dies, what is kept is right; most of it is used again, which the tests of each study show."""
    arguments = [*STUDIES[name], "--out", "rough", "--jobs", "2", "-q"]
    process = subprocess.Popen(
        [sys.executable, "-m", "helixsim", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    until_s = time.monotonic() + 60
    while process.poll() is None and not list(Path("rough").rglob("*.json")) and time.monotonic() < until_s:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=60)
    assert outcome(name, "rough", capsys, "--jobs", "2") == outcome(name, "calm", capsys, "--jobs", "1")


def test_workers_in_another_folder_are_refused(tmp_path, monkeypatch):
    """Relative names of files would lead elsewhere there."""
    distributed = pytest.importorskip("dask.distributed")
    cluster = distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None, silence_logs=50)
    with cluster:
        monkeypatch.chdir(tmp_path)
        with executor(1, cluster.scheduler_address, tmp_path / "runs") as dask:
            assert isinstance(dask, Dask)
            with pytest.raises(ConfigError, match="start the workers in the folder of this process"):
                list(dask.run(print, [1], lambda *_: None))
