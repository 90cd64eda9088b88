"""Coverage of bands: by points made up here, and by the cells that ship."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest

from helixsim.accuracy.coverage import LEFT_OUT, coverage, coverage_rows, covered, pooled, table_of
from helixsim.accuracy.points import MeasuredPoint
from helixsim.accuracy.run import PointResult, Prediction
from helixsim.domain.figures import GpuShare, SettingFigures
from helixsim.metrics.error_cells import METRICS, shipped_cells
from helixsim.metrics.model_error import Table

GPUS = ("a100-80g", "b200", "h100", "h200", "l40s", "mi300x")


def result(gpu: str, error: float, number: int) -> PointResult:
    point = MeasuredPoint(
        f"{gpu}{number}", "made up", gpu, 2, 1, 1, "vllm-1", "", "qwen3-32b", None, 1024, 512, 0.8, 4, 100.0, 10.0
    )
    steps = point.mean_output_tokens * 10.0 * math.exp(error)
    prediction = Prediction(100.0 * math.exp(error), 10.0 * math.exp(error), 4 * point.mean_output_tokens / steps * 1e3)
    return PointResult(point, prediction)


@pytest.fixture(scope="module")
def results() -> list[PointResult]:
    """Errors of GPUs differ by 0.1, those of points of one by 0.05."""
    rng = np.random.default_rng(3)
    return [
        result(gpu, shift + error, number)
        for gpu, shift in zip(GPUS, rng.normal(0, 0.1, len(GPUS)), strict=True)
        for number, error in enumerate(rng.normal(0, 0.05, 60))
    ]


def test_points_of_a_gpu_that_is_left_out_decide_nothing(results) -> None:
    others = [one for one in results if one.point.gpu != "b200"]
    far = [replace(one, analytic=result("b200", 5.0, 0).analytic) for one in results if one.point.gpu == "b200"]
    before, after = coverage(results, LEFT_OUT["GPU"]), coverage([*others, *far], LEFT_OUT["GPU"])
    assert after["b200"].shares["tpot"] == 0.0 < before["b200"].shares["tpot"]
    assert covered(far, table_of(others)) == after["b200"]


def test_bands_of_gpus_that_are_left_out_are_wider_by_what_gpus_differ(results) -> None:
    whole = table_of(results)
    added = math.sqrt(whole.known.added["tpot"]["gpu"])
    assert 0.03 < added < 0.3
    shares = pooled(coverage(results, LEFT_OUT["GPU"])).shares
    assert shares["tpot"] == shares["ttft"] > 0.5


def test_single_values_are_likely_away_from_the_level_if_they_have_an_error_in_common(results) -> None:
    """GPUs with errors of their own: within 80 % bands lie nearly all points of some, and few of others."""
    alike = [replace(one, analytic=result(one.point.gpu, error, 0).analytic) for one, error in zip(
        results, np.random.default_rng(4).normal(0, 0.05, len(results)), strict=True
    )]  # fmt: skip
    apart, same = (coverage(some, LEFT_OUT["GPU"], "gpu")["h100"].likely["tpot"] for some in (results, alike))
    assert apart.low < 0.6 < 0.95 < apart.high
    assert 0.7 < same.low < 0.8 < same.high < 0.9
    assert coverage(results, LEFT_OUT["GPU"])["h100"].likely == {}
    assert any("-" in row[3] for row in coverage_rows(results)[1])


def test_a_table_of_one_value_leaves_nothing_to_estimate_from(results) -> None:
    assert coverage(results, LEFT_OUT["engine"]) == {}


def test_a_table_has_a_row_for_all_and_for_each_value(results) -> None:
    head, rows = coverage_rows(results)
    assert [row[1] for row in rows if row[0] == "GPU"] == ["all, in turn", *GPUS]
    assert all(len(row) == len(head) for row in rows)
    assert not any(row[0] == "engine" for row in rows)


def test_points_that_could_not_be_simulated_are_left_out(results) -> None:
    failed = replace(results[0], analytic=None, reasons=(("analytic", "no memory"),))
    assert coverage([failed, *results], LEFT_OUT["GPU"]) == coverage(results, LEFT_OUT["GPU"])


@pytest.mark.parametrize("kind", [pytest.param("gpu", marks=pytest.mark.slow), "family"])
def test_bands_of_the_shipped_table_hold_four_of_five_points_that_are_left_out(kind) -> None:
    """Points of a cell are taken as normal around its mean."""
    cells, _ = shipped_cells()
    inside = dict.fromkeys(METRICS, 0.0)
    points = 0
    for value in sorted({getattr(cell, kind) for cell in cells}):
        table = Table([cell for cell in cells if getattr(cell, kind) != value])
        for cell in (cell for cell in cells if getattr(cell, kind) == value):
            setting = SettingFigures(
                tuple(GpuShare(gpu, cell.gpus, 1.0) for gpu in cell.gpu), cell.engine, cell.family, cell.weights,
                cell.timings, cell.stages, (8, 32, 128, 200)[cell.batch], (1e3, 4e3, 2e4)[cell.context],
            )  # fmt: skip
            found = table.estimate(setting)
            points += cell.points
            for metric, (mean, sd) in cell.errors.items():
                low, high = (-math.log(limit) for limit in reversed(found.band(metric)))
                own = NormalDist(mean, max(sd, 1e-3))
                inside[metric] += cell.points * (own.cdf(high) - own.cdf(low))
    for metric, count in inside.items():
        assert 0.75 <= count / points <= 0.85, (metric, count / points)
