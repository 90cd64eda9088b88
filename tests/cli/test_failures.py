"""A failure of the machine, of a worker or of the user's own code is never a verdict, and loses nothing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from helixsim.cli.main import main
from helixsim.errors import DataError, PluginError, SimulationError, WorkerError, typed_error
from helixsim.planning import capacity_run
from helixsim.study import run
from helixsim.study.run import run_system

EXPERIMENT = """\
schema: 1
name: tiny
model: llama-2-7b
cluster:
  nodes:
    - {gpu: l4, count: 2}
    - {gpu: t4, count: 2}
  network:
    intra_region: {bandwidth: 10 Gbit/s, latency: 1 ms}
workload:
  lengths: {distribution: fixed, prompt_tokens: 200, output_tokens: 20}
  arrivals: {process: poisson, rate: 2 /s}
  warmup: 2 s
  duration: 20 s
systems:
  - {name: swarm, placement: swarm}
  - {name: petals, placement: petals}
  - {name: separate, placement: separate}
slo: {ttft: 2 s, tpot: 1 s}
"""

PLAN = """\
schema: 1
name: tiny-fleet
experiment: tiny.yaml
system: petals
offers:
  - {gpu: l4, available: 2}
  - {gpu: t4, available: 2}
"""

SWEEP = """\
schema: 1
name: rates
base: tiny.yaml
axes:
  - {path: workload.arrivals.rate, values: [1, 2]}
"""

POLICY = """\
from dataclasses import dataclass

@dataclass(frozen=True)
class Options: ...

class Broken:
    summary = "raises on the fifth request"
    Options = Options

    def __init__(self, graph, options, rng):
        self.count = 0

    def route(self, prompt_tokens, expected_tokens, view):
        self.count += 1
        raise KeyError("no such hop")
"""


@pytest.fixture
def path(tmp_path):
    for name, text in (("tiny", EXPERIMENT), ("plan", PLAN), ("sweep", SWEEP)):
        (tmp_path / f"{name}.yaml").write_text(text, encoding="utf-8")
    return tmp_path / "tiny.yaml"


def files(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != "manifest.json" and not str(path.relative_to(directory)).startswith(".")
    }


def command(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "helixsim", *map(str, arguments)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True, start_new_session=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 (a background job ignores it)
    )  # fmt: skip


def failing(error, name):
    """Return ``run_system`` with one system that a failure stops."""

    def work(task, report):
        if task.case.name == name:
            raise error
        return run_system(task, report)

    return work


@pytest.mark.parametrize(
    ("error", "code"), [(DataError("x.csv: No space left on device"), 3), (WorkerError("its process died"), 1)]
)
def test_a_system_that_the_machine_stopped_is_no_result_and_the_same_command_goes_on(
    path, tmp_path, monkeypatch, capsys, error, code
):
    arguments = ["run", str(path), "--jobs", "1", "-q", "--out"]
    assert main([*arguments, str(tmp_path / "whole")]) == 0
    monkeypatch.setattr(run, "run_system", failing(error, "petals"))
    out = tmp_path / "out"
    assert main([*arguments, str(out)]) == code
    err = capsys.readouterr().err
    assert "error: petals: " in err
    assert err.count("\n") == 1
    (kept,) = (out / "tiny").glob("*-partial")
    assert str(kept) in err
    assert json.loads((kept / "manifest.json").read_text())["unfinished"] == ["petals"]
    assert list(json.loads((kept / "summary.json").read_text())["systems"]) == ["swarm", "separate"]

    simulated = []
    monkeypatch.setattr(run, "run_system", run_system)
    monkeypatch.setattr(run, "run_case", lambda case, **more: simulated.append(case.name) or RUN_CASE(case, **more))
    assert main([*arguments, str(out)]) == 0
    assert simulated == ["petals"]
    assert files(out) == files(tmp_path / "whole")


RUN_CASE = run.run_case


def test_users_code_that_raises_is_named_with_file_and_line_and_stops_no_other_system(
    path, tmp_path, monkeypatch, capsys
):
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "policy_that_raises.py").write_text(POLICY, encoding="utf-8")
    broken = ["--set", "systems.1.routing=policy_that_raises:Broken"]
    assert main(["run", str(path), "--out", str(tmp_path / "out"), "--jobs", "1", "-q", *broken]) == 5
    streams = capsys.readouterr()
    assert "policy_that_raises.py:15: in route: KeyError: 'no such hop'" in streams.err
    assert "Traceback" not in streams.err
    assert "swarm" in streams.out


def test_a_report_that_cannot_be_drawn_leaves_all_numbers(path, tmp_path, monkeypatch, capsys):
    def fail(*_arguments):
        raise ValueError("ParseFatalException: unknown symbol")

    monkeypatch.setattr(run, "build_report", fail)
    arguments = ["run", str(path), "--out", str(tmp_path / "out"), "--jobs", "1", "-q"]
    assert main(arguments) != 0
    assert "holds all results, but the report cannot be drawn" in capsys.readouterr().err
    (manifest,) = (tmp_path / "out").rglob("manifest.json")
    assert set(json.loads((manifest.parent / "summary.json").read_text())["systems"]) == {"swarm", "petals", "separate"}
    monkeypatch.undo()
    assert main(arguments) == 0
    assert (manifest.parent / "report.html").exists()


@pytest.mark.parametrize(
    ("error", "code"), [(SimulationError("x"), 5), (WorkerError("died"), 1), (DataError("disk full"), 3)]
)
def test_only_what_follows_from_the_input_counts_against_a_fleet(path, tmp_path, monkeypatch, capsys, error, code):
    from helixsim.planning import fleet_trial

    def fail(*_arguments, **_options):
        raise error

    arguments = ["fleet", str(tmp_path / "plan.yaml"), "--out", str(tmp_path / "out"), "--executor", "serial", "-q"]
    with monkeypatch.context() as patched:
        patched.setattr(fleet_trial, "run_trial", fail)
        assert main(arguments) == code
        streams = capsys.readouterr()
        assert streams.out == ""
        assert str(error) in streams.err
        assert not list((tmp_path / "out").rglob("fleet.json"))
    if code == 3:
        assert main(arguments) == 0


@pytest.mark.parametrize(("error", "code"), [(DataError("disk full"), 3), (WorkerError("died"), 1)])
def test_a_capacity_that_the_machine_hindered_is_not_kept(path, tmp_path, monkeypatch, capsys, error, code):
    search = capacity_run.search_seed

    def work(task, report):
        if task.system.name == "petals":
            raise error
        return search(task, report)

    arguments = ["capacity", str(path), "--seeds", "1", "--tolerance", "0.3", "--no-curve", "-q",
                 "--out", str(tmp_path / "out"), "--executor", "serial"]  # fmt: skip
    with monkeypatch.context() as patched:
        patched.setattr(capacity_run, "search_seed", work)
        assert main(arguments) == code
        streams = capsys.readouterr()
        assert streams.out == ""
        assert f"petals: {error}" in streams.err
        assert not list((tmp_path / "out").rglob("capacity.json"))
    if code == 3:
        assert main(arguments) == 0
        assert "petals" in capsys.readouterr().out


def test_a_point_that_the_machine_stopped_is_computed_by_the_same_sweep(path, tmp_path, monkeypatch, capsys):
    from helixsim.planning import sweep

    arguments = ["sweep", str(tmp_path / "sweep.yaml"), "--out", str(tmp_path / "out"), "--executor", "serial", "-q"]

    def fail(experiment, *more, **options):
        if experiment.workload.arrivals.rate_rps == 2:
            raise DataError("x.csv: No space left on device")
        return run.run_experiment(experiment, *more, **options)

    with monkeypatch.context() as patched:
        patched.setattr(sweep, "run_experiment", fail)
        assert main(arguments) == 3
        assert "helixsim: error: point 1, seed 0: x.csv: No space left on device" in capsys.readouterr().err
    assert main([*arguments, "--resume"]) == 0
    (table,) = (tmp_path / "out").rglob("results.csv")
    assert len(table.read_text().splitlines()) == 1 + 2 * 3


def test_errors_of_others_become_ours():
    assert str(typed_error(OSError(13, "Permission denied", "a.csv"))) == "a.csv: Permission denied"
    assert typed_error(OSError(13, "Permission denied")).exit_code == 3
    assert isinstance(typed_error(MemoryError()), WorkerError)
    with pytest.raises(ValueError, match="Expecting") as caught:
        json.loads("{")
    assert isinstance(typed_error(caught.value), WorkerError)  # not called by helixsim, so no plug-in
    for kind in (DataError, PluginError, WorkerError):
        assert not kind("x").is_result or kind is PluginError


@pytest.mark.parametrize("name", ["run", "sweep", "capacity", "fleet"])
def test_a_folder_that_cannot_be_written_is_one_clear_error(path, tmp_path, name, capsys):
    blocked = tmp_path / "blocked"
    blocked.write_text("a file", encoding="utf-8")
    target = {"run": path, "capacity": path, "sweep": tmp_path / "sweep.yaml", "fleet": tmp_path / "plan.yaml"}[name]
    assert main([name, str(target), "--out", str(blocked / "runs"), "-q"]) == 3
    err = capsys.readouterr().err
    assert err.startswith("helixsim: error: ")
    assert err.count("\n") == 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for processes in /proc")
@pytest.mark.parametrize("name", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_worker_outlives_a_run_however_early_it_ends(path, tmp_path, name):
    long = ["--set", "workload.duration=2 h", "--set", "workload.arrivals.rate=20"]
    for wait_s in (0.4, 1.0, 2.5):
        process = command("run", path, "--out", tmp_path / "out", "--jobs", "2", "-q", *long)
        time.sleep(wait_s)
        process.send_signal(name)
        process.wait(timeout=60)
        # Before the command can answer, the signal itself ends the process, or the interrupt that its handler raises.
        assert process.returncode in (128 + name, -name, -signal.SIGINT)
        until_s = time.monotonic() + 20
        while (left := session(process.pid)) and time.monotonic() < until_s:
            time.sleep(0.05)
        assert left == []


def session(number: int) -> list[str]:
    """Return the command lines of a session's processes that are still alive and no zombies."""
    alive = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[3]) == number and fields[0] != "Z":
                    alive.append((entry / "cmdline").read_text())
            except (OSError, IndexError):
                continue
    return alive


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for processes in /proc")
def test_twenty_kills_of_a_run_lose_nothing_that_had_finished(path, tmp_path):
    arguments = ["--jobs", "2", "-q", "--set", "workload.duration=10 min"]
    reference = command("run", path, "--out", tmp_path / "whole", *arguments)
    began_s = time.monotonic()
    assert reference.wait(timeout=300) == 0
    whole_s = time.monotonic() - began_s
    for number in range(20):
        out = tmp_path / f"out-{number}"
        process = command("run", path, "--out", out, *arguments)
        time.sleep(whole_s * (number + 0.5) / 20)
        process.send_signal((signal.SIGKILL, signal.SIGTERM, signal.SIGINT)[number % 3])
        process.wait(timeout=60)
        until_s = time.monotonic() + 20  # workers end when they find that their parent has; busy machines take longer
        while session(process.pid) and time.monotonic() < until_s:
            time.sleep(0.1)
        assert session(process.pid) == []
        kept = {file: file.stat().st_mtime_ns for file in out.rglob(".*-work/systems/*.zip")}
        again = command("run", path, "--out", out, *arguments)
        assert again.wait(timeout=300) == 0
        assert files(out) == files(tmp_path / "whole"), kept
        assert not list(out.rglob("*-partial"))
        assert not list(out.rglob(".*-work"))


_INTERRUPTED_DESTRUCTOR = """
import argparse, os, signal, sys, time
from helixsim.cli import main as cli

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background

class Interrupted:
    def __del__(self):
        os.kill(os.getpid(), signal.{name})
        time.sleep(0.1)

def work(args):
    Interrupted()
    time.sleep(20)

class Parser:
    def __init__(self, *_):
        pass

    def parse_all(self, arguments, args):
        return argparse.Namespace(verbose=0, func=work)

cli.build_parser = Parser
sys.exit(cli.main())
"""


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_that_comes_in_a_destructor_is_not_swallowed(name, code):
    script = _INTERRUPTED_DESTRUCTOR.format(name=name)
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=15, check=False)
    assert result.returncode == code, result.stderr
    assert "interrupted" in result.stderr
    assert "Traceback" not in result.stderr


_INTERRUPTED_TWICE = """
import argparse, os, signal, sys, time
from helixsim.cli import main as cli

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background

def work(args):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(20)

class Parser:
    def __init__(self, *_):
        pass

    def parse_all(self, arguments, args):
        return argparse.Namespace(verbose=0, func=work)

cli.build_parser = Parser
code = cli.main()
os.kill(os.getpid(), signal.{name})
time.sleep(0.1)
sys.exit(code)
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_second_signal_while_the_process_ends_does_not_replace_the_exit_code(name):
    script = _INTERRUPTED_TWICE.format(name=name)
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=15, check=False)
    assert result.returncode == 130, result.stderr
    assert "Traceback" not in result.stderr
