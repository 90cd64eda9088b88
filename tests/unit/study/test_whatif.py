"""What-if variants run as systems beside the base: the same figures as if run alone, and the diff says so."""

from __future__ import annotations

import json
import re

import pytest
from tiny import tiny

import helixsim
from helixsim.cli.main import main
from helixsim.report import whatif_rows
from helixsim.report.screen import screen_text
from helixsim.results.runset import RunSet
from helixsim.runtime.pool import Serial
from helixsim.study.run import run_experiment

EXPERIMENT = tiny()
WHATIF = """\
whatif:
  - {name: slow, links: {intra_region: {bandwidth: 0.01}}}
  - {name: lost, lose: [l4-1], replan: false}
  - {name: gone, lose: [gpu:l4, "t4-[12]"], model: llama-2-70b}
slo: {ttft: 5 s}
"""


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(EXPERIMENT + WHATIF, encoding="utf-8")
    return path


def summary(out, path, *overrides):
    directory = run_experiment(helixsim.load_experiment(path, overrides), out, Serial(), with_report=False)
    return json.loads((directory / "summary.json").read_text())


def test_variants_stand_beside_the_base_and_give_what_they_would_alone(path, tmp_path, capsys):
    assert main(["run", str(path), "--out", str(tmp_path / "whatif"), "--jobs", "1", "-q"]) == 0
    streams = capsys.readouterr()
    assert "helixsim: warning: swarm+gone: " in streams.err
    table = streams.out
    assert main(["run", str(path), "--out", str(tmp_path / "whatif"), "-q", "--strict"]) == 4
    assert "helixsim: error: swarm+gone: " in capsys.readouterr().err
    together = summary(tmp_path / "whatif", path)
    assert set(together["systems"]) == {"swarm", "swarm+slow", "swarm+lost"}
    alone = tmp_path / "alone.yaml"
    alone.write_text(EXPERIMENT + "slo: {ttft: 5 s}\n", encoding="utf-8")
    factor = "cluster.network.scale={intra_region: {bandwidth: 0.01}}"
    for name, more in (("swarm", []), ("swarm+slow", [factor])):
        (single,) = summary(tmp_path / name, alone, *more)["systems"].values()
        ours = together["systems"][name]
        assert {key: value for key, value in ours.items() if key != "helixsim"} == {
            key: value for key, value in single.items() if key != "helixsim"
        }
    assert re.search("^slow +intra_region links: 10 Gbit/s, 1 ms → 100 Mbit/s, 1 ms$", table, re.MULTILINE)
    assert re.search("^lost +l4: 2 → 1", table, re.MULTILINE)
    (page,) = (tmp_path / "whatif").rglob("report.html")
    assert "What if" in page.read_text()
    assert "lost: l4: 2 → 1" in (page.parent / "whatif.md").read_text()
    judged = together["verdict"]["systems"]
    ttft = [judged[name]["objectives"]["TTFT"]["reached_s"] for name in ("swarm", "swarm+slow")]
    change = next(row for row in whatif_rows.rows(RunSet.load(page.parent)) if row[0] == "slow")[4]
    assert change.endswith(f"({100 * (ttft[1] / ttft[0] - 1):+.0f} %)")


def test_a_kept_placement_is_the_old_one_on_the_nodes_that_are_left(path, tmp_path):
    from helixsim.study.whatif import cases, place_case

    by_name = {case.name: case for case in cases(helixsim.load_experiment(path))}
    before, after = (place_case(by_name[name]).placement.ranges for name in ("swarm", "swarm+lost"))
    assert after == {node: held for node, held in before.items() if node != "l4-1"}


def test_a_variant_that_cannot_be_placed_is_reported_and_stops_nobody(path, tmp_path):
    summary(tmp_path / "out", path)
    (manifest,) = (tmp_path / "out").rglob("manifest.json")
    failed = json.loads(manifest.read_text())["failed"]
    assert list(failed) == ["swarm+gone"]
    runs = RunSet.load(manifest.parent)
    assert ("gone", "swarm", "no result", "–", "–", "–", "–", "–") in whatif_rows.rows(runs)
    assert "no result" in screen_text(runs)
