"""Measured cells: the shipped file, pooling, summaries, the fit."""

from __future__ import annotations

import math
import re

import pytest

from helixsim import Experiment
from helixsim.config.edit import edits_of
from helixsim.errors import ConfigError, DataError
from helixsim.papers.helix import engine_fit, fidelity
from helixsim.papers.helix.cells import Cell, Figures, Part, cells_path, load_cells
from helixsim.papers.helix.fidelity import CellResult, PartFigures, over_seeds, pool_parts, summary
from helixsim.runtime import identity
from helixsim.runtime.pool import Serial

CELLS = load_cells()


def cell(name="c", measured=None, paper=None, gpus=("l4",), model="m", is_fitted=True):
    return Cell(
        name, model, "online", gpus, (), measured or Figures(100.0, 1.0, 0.1), paper or Figures(), is_fitted, ""
    )


def result(name="c", throughput=100.0, ttft=1.0, step=0.1, **more):
    return CellResult(cell(name, **more), Figures(throughput, ttft, step), 0, 0.0)


@pytest.mark.parametrize("file", sorted({part.file for cell in CELLS for part in cell.parts}), ids=lambda f: f.stem)
def test_every_experiment_of_a_cell_loads_and_holds_its_systems(file):
    experiment = Experiment.load(file).resolve()
    wanted = {part.system for cell in CELLS for part in cell.parts if part.file == file}
    assert wanted == {system.name for system in experiment.systems}
    assert experiment.engine.name == "helix-vllm-0.4"
    assert {cell.model for cell in CELLS for part in cell.parts if part.file == file} == {experiment.fleet.model.name}


def test_every_experiment_beside_the_cells_belongs_to_one():
    here = {path for path in cells_path().parent.glob("*.yaml") if path != cells_path()}
    assert here == {part.file for cell in CELLS for part in cell.parts}


def test_throughputs_add_up_and_latencies_are_pooled():
    parts = [PartFigures(10.0, 2, 3.0, 100, 20.0, 1, 0.5), PartFigures(20.0, 1, 6.0, 300, 30.0, 0, 0.5)]
    pooled = pool_parts(cell(), parts)
    assert pooled.simulated == Figures(100 / 10 + 300 / 20, (3.0 + 6.0) / 3, 50.0 / 400)
    assert (pooled.preemptions, pooled.cpu_s) == (1, 1.0)


def test_a_part_without_steps_has_no_latency():
    assert pool_parts(cell(), [PartFigures(10.0, 0, 0.0, 0, 0.0, 0, 0.0)]).simulated == Figures(0.0, None, None)


def test_results_of_seeds_are_averaged_and_their_spread_is_a_share_of_the_mean():
    runs = [result(throughput=90.0, step=None), result(throughput=100.0), result(throughput=110.0, step=0.3)]
    over = over_seeds(runs)
    assert over.simulated == Figures(pytest.approx(100.0), 1.0, pytest.approx(0.2))
    assert over.spread.throughput == pytest.approx(0.1)
    assert over.spread.ttft == 0
    assert over_seeds(runs[:1]).spread == Figures()


def test_a_seed_more_draws_another_load(tmp_path):
    online = [c for c in CELLS if c.name == "30b-helix-online"]
    short = edits_of({"workload.warmup": "5 s", "workload.duration": "20 s"})
    assert fidelity.evaluate(online, Serial(), tmp_path, seeds=1, online_seeds=2, edits=short)[0].spread.throughput


@pytest.mark.parametrize("file", sorted({p.file for c in CELLS if c.mode == "online" for p in c.parts}))
def test_online_cells_offer_the_rate_and_regularity_of_the_artifacts_recipe(file):
    """Bins of 3 s of a trace with 16 657 requests in 1200 bins, variance / mean 1.68, scaled to the rate."""
    experiment = Experiment.load(file).resolve()
    tokens_per_s = int(re.search(r"(\d+) tokens/s offered", file.read_text())[1])
    per_bin = 3 * tokens_per_s / 995.53
    arrivals = experiment.workload.arrivals
    assert arrivals.rate_rps == pytest.approx(per_bin / 3, rel=1e-3)
    assert 1 / arrivals.burstiness == pytest.approx(1.68 * per_bin / (16_657 / 1200), rel=5e-3)


def test_summary_counts_what_was_measured_and_names_the_worst():
    results = [
        result("a", 110.0, paper=Figures(105.0)),
        result("b", 80.0, paper=Figures(130.0)),
        result("c", 101.0, measured=Figures(100.0)),
    ]
    said = summary(results)["throughput"]
    assert (said["cells"], said["worst_cell"], said["paper_cells"]) == (3, "b", 2)
    assert said["median"] == pytest.approx(0.1)
    assert said["worst"] == pytest.approx(0.2)
    assert said["worse_than_paper"] == ["a"]
    assert summary(results)["ttft"]["cells"] == 2


def test_loss_is_zero_where_all_is_met_and_the_same_for_twice_and_half():
    assert engine_fit.loss([result()]) == 0
    assert engine_fit.loss([result(throughput=200.0)]) == pytest.approx(engine_fit.loss([result(throughput=50.0)]))
    assert engine_fit.loss([result(throughput=200.0)]) == pytest.approx(math.log(2) / 3)


def test_the_fit_finds_the_overhead_that_meets_the_cells_and_holds_groups_out(monkeypatch, tmp_path):
    truth = {"l4": 1e-3, "t4": 2e-3}

    def simulate(cells, _executor, _cache, *, edits, **_more):
        seconds = float(edits[-1].value.split()[0]) * 1e-3
        return [CellResult(c, Figures(100.0 * (1 + seconds) / (1 + truth[c.gpus[0]]), 1.0, 0.1), 0, 0.0) for c in cells]

    monkeypatch.setattr(engine_fit, "evaluate", simulate)
    cells = [cell("a"), cell("b"), cell("c", gpus=("t4",)), cell("d", gpus=("t4",), is_fitted=False)]
    found = engine_fit.fit(cells, Serial(), tmp_path, ladders_s={"batch_overhead": (0.0, 1e-3, 2e-3)})
    assert (found.overheads_s, found.at_edge, found.tried) == ({"batch_overhead": 1e-3}, (), 3)
    held = {held.name: held for held in found.held_out}
    assert held["l4"].overheads_s == {"batch_overhead": 2e-3}
    assert [r.cell.name for r in held["l4"].results] == ["a", "b"]
    assert set(held) == {"l4", "t4"}  # without the only model nothing is left to fit


def test_results_are_found_again_unless_they_are_damaged_or_decided_by_other_code(tmp_path, monkeypatch):
    simulated = []
    real = fidelity.PartRun.perform
    monkeypatch.setattr(fidelity.PartRun, "perform", lambda *inputs: simulated.append(inputs) or real(*inputs))
    one = [c for c in CELLS if c.name == "30b-helix-offline-l4"]

    def figures(**options):
        (result,) = fidelity.evaluate(
            one, Serial(), tmp_path, seeds=1, edits=edits_of({"workload.duration": "5 s"}), **options
        )
        return result.simulated

    first = figures()
    (kept,) = tmp_path.iterdir()
    assert figures() == first
    assert len(simulated) == 1
    kept.write_text(kept.read_text().replace('"prompts": ', '"prompts": 1'))
    assert figures() == first
    assert len(simulated) == 2
    assert figures(force=True) == first
    assert len(simulated) == 3
    monkeypatch.setattr(identity, "code_digest", lambda: "other code")
    assert figures() == first
    assert len(simulated) == 4
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("parts: [nowhere/x]", "nowhere"),
        ("parts: [70b-helix-offline]", "EXPERIMENT/SYSTEM"),
    ],
)
def test_faults_of_a_cells_file_name_the_place(tmp_path, text, said):
    path = tmp_path / "cells.yaml"
    path.write_text(f"source: s\ncells:\n  a: {{model: m, mode: online, gpus: [l4], {text}, measured: {{ttft: 1}}}}\n")
    with pytest.raises(DataError, match=said):
        load_cells(path)


def test_the_part_of_a_system_that_is_not_there_is_refused(tmp_path):
    part = Part(cells_path().parent / "70b-helix-offline.yaml", "nobody")
    lost = Cell("x", "m", "offline", ("l4",), (part,), Figures(1.0), Figures(), True, "")
    with pytest.raises(ConfigError, match="unknown system 'nobody'"):
        fidelity.evaluate([lost], Serial(), tmp_path)
