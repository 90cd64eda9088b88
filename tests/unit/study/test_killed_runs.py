"""A run killed by SIGKILL before any of its file operations, and repeated, leaves what an undisturbed one leaves.

The operations are those that make, change or remove a name, as Python's audit hooks report them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import tiny

from helixsim.study.rundir import new_directory, results_directory, work_folder

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forks of a process")

KILLS = """
import json, os, shutil, signal, sys
from pathlib import Path

CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir")

def forked(work, kill_at):
    "Run in a fork that kills itself before the given file operation, 0: never; return signal, operations."
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid:
        os.close(theirs)
        with os.fdopen(ours) as pipe:
            told = pipe.read()
        return os.WTERMSIG(os.waitpid(pid, 0)[1]), len(told)
    def hook(event, arguments):
        nonlocal kill_at
        if event in CHANGES:
            os.write(theirs, b".")
            kill_at -= 1
            if kill_at == 0:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    work()
    os._exit(0)

def left(folder):
    "All names in a folder with the contents of the files; the manifest tells how long the run took."
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() and path.name != "manifest.json" else b""
            for path in sorted(folder.rglob("*")) if ".placements" not in path.parts}

def differences(before, work):
    "Kill work(out) at every operation after before(out), repeat it, and print what differs from an undisturbed run."
    calm, rough = Path("calm"), Path("rough")
    before(calm)
    signal_number, count = forked(lambda: work(calm), 0)
    assert signal_number == 0
    whole = left(calm)
    found, number = {}, 1
    while True:
        shutil.rmtree(rough, ignore_errors=True)
        before(rough)
        if forked(lambda: work(rough), number)[0] == 0:
            break
        assert forked(lambda: work(rough), 0)[0] == 0
        again = left(rough)
        if again != whole:
            found[number] = sorted(name for name in again.keys() | whole.keys() if again.get(name) != whole.get(name))
        number += 1
    print(json.dumps({"kills": number - 1, "count": count, "files": sorted(whole), "found": found}))
"""

RESULTS = """
from helixsim.study.rundir import results_directory
from helixsim.writing import write_text

def work(out):
    results_directory(out / "results", "0123", lambda: "new", lambda to, what: write_text(to / "a", what))

def older(out):
    results_directory(out / "results", "other", lambda: "old", lambda to, what: write_text(to / "a", what))

differences(older, work)
"""

RUN = """
from helixsim.experiment import Experiment
from helixsim.runtime.pool import Serial
from helixsim.study.run import run_experiment

experiment = Experiment.load("tiny.yaml").resolve()

def work(out):
    run_experiment(experiment, out, Serial(), with_report=False)
"""

INTERRUPTED = """
import helixsim.study.run as study

def interrupted(out):
    "Leave an older run without its manifest, and a newer one that was interrupted when its system had finished."
    if not Path("state").exists():
        work(Path("state"))
        next(Path("state/tiny").glob("*/manifest.json")).unlink()
        write = study._Run.write
        def stop(*_, **__):
            study._Run.write = write
            raise KeyboardInterrupt
        study._Run.write = stop
        try:
            work(Path("state"))
        except KeyboardInterrupt:
            pass
        assert len(list(Path("state/tiny").iterdir())) == 3  # the older run, HASH-partial and .HASH-work
    shutil.copytree("state", out)
"""


def windows(folder: Path, script: str) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr
    outcome: dict[str, object] = json.loads(done.stdout)
    assert outcome["kills"] == outcome["count"]
    return outcome


def test_a_directory_of_results_killed_at_any_moment(tmp_path):
    outcome = windows(tmp_path, KILLS + RESULTS)
    assert outcome["found"] == {}
    assert {"results", "results/a", "results/manifest.json"} < set(outcome["files"])  # type: ignore[call-overload]
    assert not any("-work" in name for name in outcome["files"])  # type: ignore[attr-defined]


@pytest.mark.slow
def test_a_run_that_was_interrupted_before_killed_at_any_moment(tmp_path):
    (tmp_path / "tiny.yaml").write_text(tiny(), encoding="utf-8")
    outcome = windows(tmp_path, KILLS + RUN + INTERRUPTED + "differences(interrupted, work)")
    assert outcome["found"] == {}
    assert not any("-work" in name or "-partial" in name for name in outcome["files"])  # type: ignore[attr-defined]


@pytest.mark.slow
def test_a_run_killed_at_any_moment(tmp_path):
    (tmp_path / "tiny.yaml").write_text(tiny("{name: a, placement: swarm}", "{name: b, placement: petals}"))
    outcome = windows(tmp_path, KILLS + RUN + "differences(lambda out: out.mkdir(), work)")
    assert outcome["found"] == {}


def dead_process(*, reaped: bool) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", ""])
    if reaped:
        process.wait()
    else:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    return process


@pytest.mark.parametrize("reaped", [True, False])
def test_a_process_that_nobody_waits_for_counts_as_killed(tmp_path, reaped):
    """Its number is in use as long as its parent has not asked how it ended."""
    if not reaped and not Path("/proc/self/stat").is_file():
        pytest.skip("needs /proc")
    target = tmp_path / "results"
    process = dead_process(reaped=reaped)
    with new_directory(target) as scratch:
        name = scratch.name.replace(f"-{os.getpid()}-", f"-{process.pid}-")
    left = work_folder(target) / name
    left.mkdir(parents=True)
    (left / "half.csv").touch()
    results_directory(target, "0123", lambda: None, lambda _to, _what: None)
    assert [path.name for path in tmp_path.iterdir()] == ["results"]
    process.wait()


def test_the_folder_of_a_running_process_stays(tmp_path):
    target = tmp_path / "results"
    with new_directory(target) as scratch:
        (scratch / "half.csv").touch()
        results_directory(target, "0123", lambda: None, lambda _to, _what: None)
        assert results_directory(target, "0123", lambda: None, lambda _to, _what: None) is None
        assert (scratch / "half.csv").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["results"]
