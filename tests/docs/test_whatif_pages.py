"""The pages of experiments/whatif: commands that exist, and figures that the experiments have."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import helixsim
from helixsim import yamlio
from helixsim.cli.main import build_parser
from helixsim.domain.summary import milliseconds
from helixsim.report import whatif_rows
from helixsim.results.runset import RunSet
from helixsim.runtime.pool import Processes, Serial
from helixsim.study.run import run_experiment
from helixsim.units import number, percent

FOLDER = Path(__file__).parents[2] / "experiments" / "whatif"
PAGES = sorted(FOLDER.rglob("README.md"))
VARIANTS = [FOLDER / f"{name}.yaml" for name in ("double-traffic", "lose-region")]
PRICE = 1
"""Column of the price [$/h] in tables of variants."""


def page_of(path):
    return (FOLDER / path.stem / "README.md").read_text(encoding="utf-8")


def rows_of(page):
    """The cells of the first table with variants."""
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_commands_of_the_pages_are_accepted(page):
    commands = re.findall(r"^    python -m helixsim (.*)$", page.read_text(encoding="utf-8"), flags=re.M)
    assert commands or page.parent == FOLDER
    for command in commands:
        arguments = build_parser().parse_args(shlex.split(command))
        named = [word for word in shlex.split(command) if word.endswith(".yaml")]
        assert arguments.func
        assert all((FOLDER.parents[1] / name).is_file() for name in named)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_questions_stand_on_the_engine_of_today_and_selected_routing(path):
    document = yamlio.load(path).data
    if "systems" in document:
        engine = document["engine"]
        assert (engine["name"] if isinstance(engine, dict) else engine) == "vllm-1"
        for system in document["systems"]:
            if system["placement"] == "helix":
                assert system.get("routing", "auto") == "auto"


@pytest.mark.parametrize("path", VARIANTS, ids=lambda path: path.stem)
def test_prices_of_the_tables_are_those_of_the_variants(path):
    experiment = helixsim.load_experiment(path)
    fleets = [experiment.fleet, *(variant.experiment.fleet for variant in experiment.variants)]
    prices = [f"{fleet.cluster.cost_usd_per_hour:.2f}" for fleet in fleets]
    assert [row[PRICE] for row in rows_of(page_of(path))] == prices


@pytest.mark.slow
@pytest.mark.parametrize("path", VARIANTS, ids=lambda path: path.stem)
def test_figures_of_the_tables_are_what_a_run_finds(path, tmp_path):
    experiment = helixsim.load_experiment(path)
    runs = RunSet.load(run_experiment(experiment, tmp_path, Processes(2), with_report=False))
    found = [[re.sub(r" \(.*\)$", "", cell) for cell in row[2:]] for row in whatif_rows.rows(runs)]
    shown = [[re.sub(r" \(.*\)$", "", cell) for cell in row[PRICE + 1 :]] for row in rows_of(page_of(path))]
    assert shown == found


@pytest.mark.slow
@pytest.mark.parametrize("size", ["0 GiB", "64 GiB"])
def test_figures_of_host_memory_are_what_a_run_finds(size, tmp_path):
    experiment = helixsim.load_experiment(FOLDER / "chat-sessions.yaml", (f"engine.kv_offloading.host.size={size}",))
    runs = RunSet.load(run_experiment(experiment, tmp_path, Serial(), with_report=False))
    one = runs["L40S"].summary
    tiers, loads = one.kv_offloading.tiers, one.kv_offloading
    pairs = (
        (milliseconds(loads.load_p50_s), milliseconds(loads.load_p99_s)),
        (one.ttft.p50_s, one.ttft.p99_s),
        (milliseconds(one.tpot.p50_s), milliseconds(one.tpot.p99_s)),
    )
    found = [size, *(percent(tiers[name].hit_rate) for name in ("gpu", "host"))]
    found += [" / ".join(map(number, pair)) for pair in pairs] + [percent(one.throughput.slo_attainment)]
    assert found in rows_of(page_of(FOLDER / "host-memory.yaml"))


def test_the_sweep_of_host_memory_has_the_rows_of_its_page():
    (axis,) = yamlio.load(FOLDER / "host-memory.yaml").data["axes"]
    rows = rows_of(page_of(FOLDER / "host-memory.yaml"))
    assert [row[0] for row in rows] == list(axis["values"])
    hits = [float(row[1]) + float(row[2]) for row in rows]
    assert hits == sorted(hits)
