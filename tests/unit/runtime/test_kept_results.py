"""Every command gives the results of its inputs and of the code that runs: kept ones only where they are those."""

from __future__ import annotations

import errno
import importlib
import json
import os
import shutil
import sys

import pytest
from tiny import SWARM, tiny

from helixsim import yamlio
from helixsim.cli.main import main
from helixsim.datafiles import data_path
from helixsim.engine import simulate as engine
from helixsim.errors import SimulationError
from helixsim.metrics.error_cells import OWN_VARIABLE
from helixsim.runtime import identity
from helixsim.study import systems

OWN = "{name: own, placement: swarm, routing: 'own_routing:Own'}"

ROUTING = """\
from dataclasses import dataclass

from helixsim.routing.walk import walk


@dataclass(frozen=True)
class NoOptions: ...


class Own:
    summary = "one node of those that come next"
    Options = NoOptions

    def __init__(self, graph, options, rng):
        self.graph = graph

    def route(self, prompt_tokens, expected_tokens, view):
        return walk(self.graph, view, lambda hops: {choice}(hops, key=lambda hop: view.in_flight(hop.node)))
"""


@pytest.fixture(autouse=True)
def _without_drawing(monkeypatch):
    """Leave out what takes longest and is not looked at here."""
    for form in ("svg_bytes", "png_bytes"):
        monkeypatch.setattr(f"helixsim.report.style.{form}", lambda _figure: b"<svg></svg>")


@pytest.fixture
def simulations(monkeypatch):
    """Count the simulations, whoever asks for them."""
    counted = []
    real = engine.simulate
    monkeypatch.setattr(systems, "simulate", lambda *inputs: counted.append(1) or real(*inputs))
    return counted


@pytest.fixture
def inputs(tmp_path):
    """Write the smallest file of every command and return its arguments."""
    text = tiny(SWARM, duration_s=4) + "slo: {ttft: 400 ms, tpot: 120 ms}\n"
    text = text.replace(
        "  limits:", "  lengths: {distribution: fixed, prompt_tokens: 200, output_tokens: 20}\n  limits:"
    )
    (tmp_path / "exp.yaml").write_text(text, encoding="utf-8")
    axis = {"path": "workload.arrivals.rate", "values": [1, 2]}
    sweep = {"schema": 1, "name": "s", "base": "exp.yaml", "axes": [axis], "plots": []}
    (tmp_path / "sweep.yaml").write_text(yamlio.dump(sweep), encoding="utf-8")
    plan = {"schema": 1, "name": "f", "experiment": "exp.yaml", "simulations": 3,
            "offers": [{"gpu": "l4", "region": "default", "available": 2}]}  # fmt: skip
    (tmp_path / "plan.yaml").write_text(yamlio.dump(plan), encoding="utf-8")
    out = ["--out", str(tmp_path / "out"), "-q"]
    return {
        "run": ["run", str(tmp_path / "exp.yaml"), "--jobs", "1", *out],
        "sweep": ["sweep", str(tmp_path / "sweep.yaml"), "--executor", "serial", *out],
        "capacity": ["capacity", str(tmp_path / "exp.yaml"), "--executor", "serial", "--seeds", "1", "--tolerance",
                     "0.3", "--no-curve", *out],
        "fleet": ["fleet", str(tmp_path / "plan.yaml"), "--executor", "serial", *out],
    }  # fmt: skip


def results(out):
    """Return the files of all results, those apart that tell how long they took."""
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name != "manifest.json" and not path.relative_to(out).parts[0].startswith(".")
    }


COMMANDS = ("run", "sweep", "capacity", "fleet")


@pytest.mark.parametrize("command", COMMANDS)
def test_kept_results_are_used_until_code_changes_that_decides_them(inputs, command, simulations, monkeypatch, capsys):
    assert main(inputs[command]) == 0, capsys.readouterr().err
    first = len(simulations)
    assert first > 0
    assert main(inputs[command]) == 0
    assert len(simulations) == first
    monkeypatch.setattr(identity, "code_digest", lambda: "another engine")
    assert main(inputs[command]) == 0
    assert len(simulations) == 2 * first


@pytest.mark.parametrize("command", COMMANDS)
def test_kept_results_have_the_verdict_of_the_model_errors_of_today(
    inputs, command, simulations, tmp_path, monkeypatch, capsys
):
    """What is measured is kept; what is derived from it is what a computation from the start would say."""
    assert main(inputs[command]) == 0, capsys.readouterr().err
    before, first = results(tmp_path / "out"), len(simulations)
    table = tmp_path / "accuracy.csv"
    head, *rows = data_path("profiles", "accuracy", "cells.csv").read_text(encoding="utf-8").splitlines()
    place = head.split(",").index("tpot_log_error_mean")
    cells = [row.split(",") for row in rows[::6]]
    changed = [[*row[:place], "0.7", *row[place + 1 :]] for row in cells]
    table.write_text("\n".join([head, *map(",".join, changed)]) + "\n", encoding="utf-8")
    monkeypatch.setenv(OWN_VARIABLE, str(table))
    assert main(inputs[command]) == 0, capsys.readouterr().err
    assert len(simulations) == first
    after = results(tmp_path / "out")
    assert main([str(tmp_path / "new") if one == str(tmp_path / "out") else one for one in inputs[command]]) == 0
    anew = results(tmp_path / "new")
    assert {name: text for name, text in after.items() if name in anew} == anew
    assert any(before.get(name) != text for name, text in after.items())


@pytest.mark.parametrize("library", ["numpy", "highspy"])
def test_another_version_of_a_library_computes_anew(inputs, library, simulations, monkeypatch):
    assert main(inputs["run"]) == 0
    versions = {**identity.library_versions(), library: "0.0.1"}
    monkeypatch.setattr(identity, "library_versions", lambda: versions)
    assert main(inputs["run"]) == 0
    assert len(simulations) == 2


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def folder(path):
    path.unlink()
    path.mkdir()


def link(path):
    target = path.with_name(f"{path.name}.moved")
    path.rename(target)
    path.symlink_to(target)


DAMAGE = {
    "cut": cut,
    "empty": lambda path: path.write_bytes(b""),
    "rubbish": lambda path: path.write_bytes(b"\0\xff\xfe" * 20),
    "brackets": lambda path: path.write_text("{}"),
    "null": lambda path: path.write_text("null"),
    "one digit": lambda path: path.write_bytes(path.read_bytes()[:-3] + b"7" + path.read_bytes()[-2:]),
    "gone": lambda path: path.unlink(),
    "folder": folder,
    "link": link,
}


@pytest.mark.parametrize(("command", "damage"), [*zip(COMMANDS, ("cut", "null", "folder", "one digit"), strict=True)])
def test_damaged_caches_are_made_again(inputs, command, damage, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(inputs[command]) == 0
    before = results(out)
    for path in out.iterdir():
        if not path.name.startswith("."):
            shutil.rmtree(path)
    kept = [path for cache in (".placements", ".trials") for path in (out / cache).glob("*.json")]
    assert kept
    for path in kept:
        DAMAGE[damage](path)
    assert main(inputs[command]) == 0
    assert results(out) == before
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(("command", "damage"), [*zip(COMMANDS, ("one digit", "cut", "null", "gone"), strict=True)])
def test_damaged_results_are_made_again(inputs, command, damage, tmp_path):
    out = tmp_path / "out"
    assert main(inputs[command]) == 0
    before = results(out)
    names = {"run": "summary.json", "sweep": "summary.json", "capacity": "capacity.json", "fleet": "fleet.json"}
    for path in out.rglob(names[command]):
        DAMAGE[damage](path)
    assert main(inputs[command]) == 0
    after = results(out)
    assert {name: after[name] for name in before} == before


@pytest.mark.parametrize("damage", [name for name in DAMAGE if name != "gone"])
def test_a_damaged_manifest_makes_the_run_again(inputs, damage, tmp_path, simulations):
    assert main(inputs["run"]) == 0
    (path,) = (tmp_path / "out").rglob("manifest.json")
    DAMAGE[damage](path)
    assert main(inputs["run"]) == 0
    assert len(simulations) == 2
    assert json.loads(path.read_text())["failed"] == {}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    (folder / "exp.yaml").write_text(tiny(SWARM, duration_s=4), encoding="utf-8")
    assert main(["run", str(folder / "exp.yaml"), "--jobs", "1", "-q", "--out", str(folder / "out")]) == 0
    return next((folder / "out").rglob("manifest.json")).parent


READ_AGAIN = (
    "manifest.json", "summary.json", "config.resolved.yaml", "nodes.csv", "links.csv", "series.csv", "node_series.csv",
    "itl.csv", "requests/swarm.csv", "placements/swarm.json",
)  # fmt: skip


@pytest.mark.parametrize("name", READ_AGAIN)
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_commands_that_only_read_refuse_a_damaged_directory_in_one_line(finished, name, damage, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    damage(copy / name)
    for arguments in (["report", copy], ["compare", copy, finished], ["compare", finished, copy]):
        assert main([str(one) for one in arguments]) in {2, 3}
        streams = capsys.readouterr()
        assert streams.out == ""
        (line,) = streams.err.splitlines()
        assert line.startswith("helixsim: error: ")
        assert str(copy) in line


def test_every_file_of_a_run_that_is_not_drawn_again_has_a_digest(finished):
    digests = json.loads((finished / "manifest.json").read_text())["digests"]
    left = {path.relative_to(finished).as_posix() for path in finished.rglob("*") if path.is_file()}
    drawn = {name for name in left if name == "report.html" or name.startswith("figures/")}
    assert set(digests) == left - drawn - {"manifest.json"} >= set(READ_AGAIN) - {"manifest.json"}


def test_a_manifest_names_code_libraries_and_inputs(finished):
    named = json.loads((finished / "manifest.json").read_text())["identity"]
    assert named["content_key"][:12] == finished.name
    assert named["code"] == identity.code_digest()
    assert set(named["libraries"]) == {"numpy", "highspy", "simpy"}


def test_a_report_can_be_drawn_again_and_again(finished):
    for _ in range(2):
        assert main(["report", str(finished)]) == 0


@pytest.fixture
def own_routing(tmp_path, monkeypatch):
    """Return a function that writes a policy of the user's own, as if before the next command."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(choice):
        sys.modules.pop("own_routing", None)
        (tmp_path / "own_routing.py").write_text(ROUTING.replace("{choice}", choice), encoding="utf-8")
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
        importlib.invalidate_caches()

    yield write
    sys.modules.pop("own_routing", None)


def test_an_edited_policy_shows_its_own_numbers(tmp_path, own_routing, simulations, capsys):
    path = tmp_path / "exp.yaml"
    path.write_text(tiny(OWN, duration_s=20), encoding="utf-8")
    answers = []
    for choice in ("min", "min", "max"):
        own_routing(choice)
        assert main(["run", str(path), "--jobs", "1", "--json", "-q", "--out", str(tmp_path / "out")]) == 0
        answers.append(json.loads(capsys.readouterr().out))
    assert answers[0] == answers[1] != answers[2]
    assert len(simulations) == 2
    (named,) = {tuple(json.loads(file.read_text())["identity"]["plugins"]) for file in tmp_path.rglob("manifest.json")}
    assert named == ("own_routing:Own",)


def test_check_runs_anew_what_was_not_checked(inputs, simulations, tmp_path, monkeypatch, capsys):
    checked = []
    real = systems.simulate
    monkeypatch.setattr(systems, "simulate", lambda given, *more: checked.append(given.check) or real(given, *more))
    first = [*inputs["run"], "--check"]
    for arguments, expected in (
        (inputs["run"], [False]),
        (first, [False, True]),
        (first, [False, True]),
        (inputs["run"], [False, True]),
        ([*first, "--force"], [False, True, True]),
    ):
        assert main(arguments) == 0
        assert checked == expected
    (manifest,) = (tmp_path / "out").rglob("manifest.json")
    assert json.loads(manifest.read_text())["checked"] is True


def test_check_finds_what_is_broken_in_a_finished_run(inputs, monkeypatch, capsys):
    assert main(inputs["run"]) == 0
    real = systems.simulate

    def broken(given, *more):
        if given.check:
            raise SimulationError("INV-99 is broken")
        return real(given, *more)

    monkeypatch.setattr(systems, "simulate", broken)
    assert main([*inputs["run"], "--check"]) == 5
    assert "INV-99 is broken" in capsys.readouterr().err


def test_a_sweep_that_checks_goes_on_where_it_was(inputs, simulations):
    arguments = [*inputs["sweep"], "--check"]
    assert main(inputs["sweep"]) == 0
    assert main(arguments) == 0
    assert len(simulations) == 4
    assert main([*arguments, "--resume"]) == 0
    assert len(simulations) == 4


@pytest.mark.skipif(os.name == "nt", reason="no such rights")
@pytest.mark.parametrize("command", COMMANDS)
def test_results_are_not_lost_for_want_of_a_cache(inputs, command, tmp_path, monkeypatch, caplog):
    assert main(inputs[command]) == 0
    before = results(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    from helixsim.runtime import store

    def refuse(path, _text):
        raise OSError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(store, "write_text", refuse)
    monkeypatch.setattr(store, "_told", set())
    assert main(inputs[command]) == 0
    assert results(tmp_path / "out") == before
    assert 1 <= len(caplog.records) <= 3  # one for each kind of result
