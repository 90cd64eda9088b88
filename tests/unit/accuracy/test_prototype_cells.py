"""Cells of the prototype as cells of model errors."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from helixsim.accuracy import prototype_cells
from helixsim.domain.figures import GpuShare, SettingFigures
from helixsim.metrics.error_cells import cells_of
from helixsim.papers.helix.cells import Figures, load_cells
from helixsim.papers.helix.fidelity import CellResult

SETTING = SettingFigures(
    (GpuShare("l4", 1, 0.4), GpuShare("t4", 1, 0.6)), "helix-vllm-0.4", "dense", "fp16", ("fitted",), 8.4, 20.0, 900.0
)


def test_measurements_of_one_part_in_one_setting_are_the_points_of_a_cell(monkeypatch) -> None:
    monkeypatch.setattr(prototype_cells, "setting_of", lambda part: SETTING)
    known = load_cells()
    alone = next(cell for cell in known if len(cell.parts) == 1 and cell.measured.ttft)
    several = next(cell for cell in known if len(cell.parts) > 1)
    measured = Figures(throughput=100.0, ttft=2.0, step=0.1)
    results = [
        CellResult(replace(alone, measured=measured), Figures(100.0 * off, None, 0.1 * off), 0, 0.0)
        for off in (0.9, 1.2)
    ]
    results.append(CellResult(several, Figures(1.0, 1.0, 1.0), 0, 0.0))
    rows = prototype_cells.rows(results)
    (cell,) = cells_of([{key: str(value) for key, value in row.items()} for row in rows], "rows")
    assert (cell.gpu, cell.points, cell.stages, cell.timings) == (("l4", "t4"), 2, 9, ("fitted",))
    assert cell.errors.keys() == {"tpot", "throughput"}
    mean, sd = cell.errors["tpot"]
    assert mean == pytest.approx((math.log(0.9) + math.log(1.2)) / 2, abs=1e-4)
    assert sd == pytest.approx((math.log(1.2) - math.log(0.9)) / 2, abs=1e-4)
