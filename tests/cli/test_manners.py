"""What every command does with what it is given: help, suggestions, terminals of all kinds, names of all kinds."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helixsim.cli import console, streams
from helixsim.cli.main import COMMANDS, main

ROOT = Path(__file__).parents[2]
POLICY = """\
from dataclasses import dataclass
import helper_beside
from helixsim.routing.walk import walk

from pathlib import Path
Path(__file__).with_name("RAN").touch()  # never in a working directory

@dataclass(frozen=True)
class Options:
    patience: int = 3

class Mine:
    summary = "mine"
    Options = Options
    def __init__(self, graph, options, rng): self.graph = graph
    def route(self, prompt_tokens, expected_tokens, view):
        return walk(self.graph, view, lambda hops: hops[0])
"""
EXPERIMENT = """\
schema: 1
name: manners
model: llama-2-13b
cluster:
  coordinator: {region: a}
  nodes: [{gpu: l4, count: 3, region: a}]
  network: {intra_region: {bandwidth: 8 Gbit/s, latency: 1 ms}, inter_region: {bandwidth: 1 Gbit/s, latency: 9 ms}}
workload:
  lengths: {distribution: uniform, prompt_min: 10, prompt_max: 30, output_min: 4, output_max: 6}
  arrivals: {process: poisson, rate: 1 /s}
  warmup: 1 s
  duration: 4 s
systems:
  - {name: one, placement: {strategy: petals}, routing: ROUTING}
  - {name: two, placement: {strategy: petals}}
baseline: two
"""


def cli(*arguments, cwd, script=False, env=None):
    """Run the command line in a process of its own, as the module or as the console script does."""
    start = ["-c", "import sys; from helixsim.cli.main import main; sys.exit(main())"] if script else ["-m", "helixsim"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **(env or {})}
    if script:
        environment["PYTHONSAFEPATH"] = "1"  # the script's own folder is on the path instead of the working directory
    return subprocess.run([sys.executable, *start, *map(str, arguments)], cwd=cwd, env=environment, capture_output=True,
                          timeout=120, check=False)  # fmt: skip


@pytest.fixture
def folders(tmp_path):
    """An experiment with a policy beside it, and another folder to work in."""
    beside, elsewhere = tmp_path / "beside", tmp_path / "elsewhere"
    beside.mkdir()
    elsewhere.mkdir()
    (beside / "exp.yaml").write_text(EXPERIMENT.replace("ROUTING", "policy_of_mine:Mine"), encoding="utf-8")
    (beside / "policy_of_mine.py").write_text(POLICY, encoding="utf-8")
    (beside / "helper_beside.py").write_text("", encoding="utf-8")
    yield beside, elsewhere
    own = [name for name, module in sys.modules.items() if str(tmp_path) in str(getattr(module, "__file__", ""))]
    for name in own:
        del sys.modules[name]


def test_help_lists_the_commands_asked_for_or_not(capsys):
    assert main(["--help"]) == 0
    asked = capsys.readouterr()
    assert main([]) == 2
    unasked = capsys.readouterr()
    for text in (asked.out, unasked.err):
        assert all(re.search(rf"^ +{command}\b", text, re.M) for command in COMMANDS)
    assert unasked.out == ""
    assert main(["trace"]) == 2
    assert "fit-lengths" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["rum", "x.yaml"], "run"),
        (["validte", "x.yaml"], "validate"),
        (["trace", "inof"], "info"),
        (["run", "x.yaml", "--sed", "3"], "--seed"),
        (["sweep", "x.yaml", "--executr=serial"], "--executor"),
        (["sweep", "x.yaml", "--executor", "seriel"], "serial"),
    ],
)
def test_what_was_probably_meant_is_suggested(arguments, meant, capsys):
    assert main(arguments) == 2
    assert f"did you mean {meant!r}?" in capsys.readouterr().err


def test_what_nothing_resembles_is_answered_with_what_there_is(capsys):
    assert main(["qqqq"]) == 2
    error = capsys.readouterr().err
    assert "did you mean" not in error
    assert all(command in error for command in COMMANDS)


HOSTILE = "a\x1b]0;owned\x07b\x9b31m\u202egnp\u2028\rz\x00"


@pytest.mark.parametrize(
    "arguments",
    [
        ["validate", "EXP", "--set", f"{HOSTILE}=1"],
        ["validate", "EXP", "--set", f"slo_targets={{{json.dumps(HOSTILE)}: {{ttft: 1 s}}}}"],
        ["validate", "EXP", "--set", f"cluster.nodes.0.ids=[{json.dumps(HOSTILE)}]"],
        ["validate", "EXP", "--set", f"systems.0.routing={json.dumps(HOSTILE)}"],
        ["validate", HOSTILE.replace("\x00", "")],
        [HOSTILE],
        ["run", "EXP", f"--{HOSTILE}"],
        ["trace", "info", HOSTILE.replace("\x00", "")],
    ],
)
def test_no_message_holds_characters_that_act(arguments, folders, capsys):
    beside, _ = folders
    assert main([argument.replace("EXP", str(beside / "exp.yaml")) for argument in arguments]) != 0
    said = capsys.readouterr()
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\u2028]", said.out + said.err)
    assert "helixsim" in said.err


def test_json_that_is_guarded_is_the_same_json():
    document = {HOSTILE: "naïve – 12 ± 3 €"}
    for encoding in ("utf-8", "cp1252", "ascii"):
        raw = io.BytesIO()
        stream = streams.Guarded(io.TextIOWrapper(raw, encoding=encoding))
        stream.exact = True
        stream.write(json.dumps(document, ensure_ascii=False))
        stream.flush()
        assert json.loads(raw.getvalue().decode(encoding)) == document


def test_every_encoding_takes_every_text():
    text = "".join(map(chr, [*range(0x3000), 0xD800, 0xFEFF, 0x1F600, 0xE0041]))
    for encoding in ("ascii", "cp1252", "cp437", "latin-1", "utf-8"):
        raw = io.BytesIO()
        stream = streams.Guarded(io.TextIOWrapper(raw, encoding=encoding, newline=""))
        stream.write(text)
        stream.flush()
        assert raw.getvalue().decode(encoding).count("\n") == 1
    assert streams.encodable("─│┼ 3 ± 1", "ascii") == "-|+ 3 +- 1"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_terminals_without_unicode_get_a_table(encoding, folders):
    beside, _ = folders
    result = cli("inspect", "schema", "--markdown", cwd=beside, env={"PYTHONIOENCODING": encoding})
    assert result.returncode == 0, result.stderr
    result.stdout.decode(encoding)
    arguments = ("run", "exp.yaml", "--jobs", "1", "--out", "o", "-v", "--set", "slo={ttft: 1 ms}")
    result = cli(*arguments, cwd=beside, env={"PYTHONIOENCODING": encoding})
    assert result.returncode == 0, result.stderr
    assert re.search(r"^-{20,}$", result.stdout.decode(encoding), re.M)
    assert re.search(r"^\S+ +x [0-9.]+ %", result.stdout.decode(encoding), re.M)


def test_reading_commands_run_no_code_of_the_users(folders):
    beside, _ = folders
    for script in (False, True):
        result = cli("validate", "exp.yaml", cwd=beside, script=script)
        assert result.returncode == 0, result.stderr
        assert not (beside / "RAN").exists()
        assert b"policy_of_mine:Mine" in result.stdout
    result = cli("validate", "exp.yaml", "--plugins", cwd=beside)
    assert result.returncode == 0, result.stderr
    assert (beside / "RAN").exists()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("policy_of_mine:Mne", "did you mean 'Mine'?"),
        ("functions:nearst", "did you mean 'nearest'?"),
        ("functions:x", "(classes and policies: nearest)"),
        ("policy_of_mein:Mine", "no module 'policy_of_mein' among the installed packages and in "),
        ("broken:Mine", "broken.py:2: "),
        (":", "expected 'package.module:Class'"),
        ("policy_of_mine.deeper:Mine", "no module 'policy_of_mine.deeper'"),
    ],
)
@pytest.mark.parametrize("command", ["validate", "run"])
def test_a_class_that_is_not_there_is_one_line_with_its_place(name, said, command, folders, capsys, monkeypatch):
    beside, _ = folders
    monkeypatch.chdir(beside)
    (beside / "broken.py").write_text("\ndef (:\n", encoding="utf-8")
    function = (
        'import helixsim as hx\n\n@hx.routing("n")\ndef nearest(hops, view):\n    """nearest"""\n    return hops[0]\n'
    )
    (beside / "functions.py").write_text(f"{function}\ndef _helper():\n    return 0\n", encoding="utf-8")
    assert main([command, "exp.yaml", "--set", f"systems.0.routing={json.dumps(name)}"]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert "Traceback" not in error


def test_a_file_that_fails_when_it_is_run_is_named_with_its_line(folders, capsys, monkeypatch):
    beside, _ = folders
    monkeypatch.chdir(beside)
    (beside / "raises_so.py").write_text("\n\nraise RuntimeError('no licence')\n", encoding="utf-8")
    assert main(["validate", "exp.yaml", "--set", "systems.0.routing=raises_so:X"]) == 2  # no X in it
    capsys.readouterr()
    assert main(["place", "exp.yaml", "--set", "systems.0.routing=raises_so:X"]) == 2
    error = capsys.readouterr().err
    assert "RuntimeError: no licence" in error
    assert "raises_so.py:3" in error


@pytest.mark.parametrize("script", [False, True])
def test_a_policy_is_found_beside_the_experiment_and_in_the_working_directory(script, folders):
    beside, elsewhere = folders
    result = cli("run", beside / "exp.yaml", "--jobs", "2", "--out", "o", "-q", cwd=elsewhere, script=script)
    assert result.returncode == 0, result.stderr.decode()  # in processes of the pool, with a module that it imports
    for name in ("policy_of_mine.py", "helper_beside.py"):
        (beside / name).rename(elsewhere / name)
    result = cli("place", beside / "exp.yaml", "-q", cwd=elsewhere, script=script)
    assert result.returncode == 0, result.stderr.decode()


def test_a_file_beside_the_experiment_stands_in_for_no_installed_module(folders):
    beside, _ = folders
    for name in ("pandas", "rich", "highspy", "yaml"):
        (beside / f"{name}.py").write_text("open('STOOD-IN', 'w').close()", encoding="utf-8")
    result = cli("place", "exp.yaml", cwd=beside)
    assert result.returncode == 0, result.stderr.decode()
    assert not (beside / "STOOD-IN").exists()


def test_two_experiments_cannot_mean_different_files_by_one_name(folders, capsys):
    beside, elsewhere = folders
    for folder in folders:
        (folder / "exp.yaml").write_text(EXPERIMENT.replace("ROUTING", "namesake_policy:Mine"), encoding="utf-8")
        (folder / "namesake_policy.py").write_text(POLICY.replace("import helper_beside", ""), encoding="utf-8")
    assert main(["place", str(beside / "exp.yaml"), "--json"]) == 0
    assert main(["place", str(elsewhere / "exp.yaml"), "--json"]) == 2
    assert "already imported" in capsys.readouterr().err


def test_long_names_stay_apart_in_every_table(folders, capsys, monkeypatch):
    beside, _ = folders
    monkeypatch.chdir(beside)
    (beside / "exp.yaml").write_text(EXPERIMENT.replace("ROUTING", "random"), encoding="utf-8")
    variants = ", ".join(f"{{name: lose-dgx-in-region-{n}, traffic: {{rate: 1.{n}}}}}" for n in range(3))
    assert main(["run", "exp.yaml", "--out", "o", "--jobs", "1", "-q", "--set", f"whatif=[{variants}]"]) == 0
    out = capsys.readouterr().out
    assert "…" not in out
    squeezed = "".join(out.split())
    assert all(f"lose-dgx-in-region-{n}" in squeezed for n in range(3))


def test_progress_tells_no_time_left_that_it_does_not_know(capsys, monkeypatch):
    seconds = iter(range(1000))
    monkeypatch.setattr(console.time, "monotonic", lambda: next(seconds))
    with console.progress("run") as advance:
        for tenths in range(1, 11):
            advance(tenths / 10, f"simulating {tenths}")
    error = capsys.readouterr().err
    assert "simulating 9" in error
    assert "left" not in error
    with console.progress("fleet") as advance_table:
        for tenths in range(1, 11):
            advance_table(tenths / 10, "searching")
    assert "left" not in capsys.readouterr().err
    with console.progress("sweep", counted=True) as advance_table:
        for tenths in range(1, 11):
            advance_table(tenths / 10, f"{tenths} of 10")
    lines = capsys.readouterr().err.splitlines()
    assert all("left" in line for line in lines[:-1])
    assert "left" not in lines[-1]


def test_progress_is_not_silent_for_long(capsys, monkeypatch):
    monkeypatch.setattr(console, "HEARTBEAT_S", 0.05)
    with console.progress("run") as advance:
        advance(0.3, "placing helix")
        time.sleep(0.5)
    said = capsys.readouterr().err
    assert said.count("(placing helix)") >= 2
    assert "running for" in said


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("--seeds", ["0", "-1", "x", "", "1.5", "9" * 30, "9" * 5000, "\u0661"]),
        ("--jobs", ["0", "9" * 30, "\u0661"]),
        ("--tolerance", ["nan", "inf", "0", "1", "1e-300", "-1", "", "\u0661", "100%"]),
        ("--percentile", ["nan", "0", "101", "\u0661", ""]),
        ("--share", ["nan", "0", "1", "x"]),
    ],
)
def test_numbers_on_the_command_line_are_bounded(option, values, capsys):
    for value in values:
        assert main(["capacity", "none.yaml", f"{option}={value}"]) == 2
        error = capsys.readouterr().err
        assert f"argument {option}: expected a " in error
        assert len(error) < 3000
