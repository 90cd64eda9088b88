"""The sample of points that ships: its laws, and that predictions of it are no worse than its table says."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import pytest
from made_up_points import many, result

from helixsim.accuracy import sample
from helixsim.accuracy.cells import METRICS
from helixsim.accuracy.express import requests_of
from helixsim.accuracy.points import chosen, throughput
from helixsim.accuracy.run import simulated_means
from helixsim.datafiles import data_path
from helixsim.errors import DataError, HelixsimError

QUICK_TOKENS = 60_000
"""Most output tokens of a point that the fast tests simulate."""


def written(results, tmp_path: Path) -> Path:
    rows = sample.rows(results)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    path = tmp_path / "sample.csv"
    path.write_text(text.getvalue(), encoding="utf-8")
    return path


def test_a_table_read_again_gives_the_measured_means(tmp_path):
    results = [*many(20), result(None, id="failed"), result(1.3, weights=None, id="own")]
    known = sample.read(written(results, tmp_path))
    assert [one.point.id for one in known] == [one.point.id for one in results if one.analytic is not None]
    for one, kept in zip([one for one in results if one.analytic], known, strict=True):
        assert kept.point.weights == one.point.weights
        assert kept.point.ttft_ms == pytest.approx(one.point.ttft_ms, rel=1e-4)
        assert kept.point.tpot_ms == pytest.approx(one.point.tpot_ms, rel=1e-4)
        found = sample.errors_of(kept.point, one.analytic.ttft_ms, one.analytic.tpot_ms)
        assert found == pytest.approx(kept.log_errors, abs=1e-3)


def test_errors_that_grow_are_told_by_engine_and_gpu():
    known = [
        sample.Known(one.point, dict.fromkeys(METRICS, 0.1)) for one in (result(id="a"), result(id="b", gpu="b200"))
    ]
    assert sample.worse(known, [one.log_errors for one in known]) == []
    assert sample.worse(known, [dict.fromkeys(METRICS, -0.1)] * 2) == []  # as far off, in the other direction
    grown = sample.worse(known, [dict.fromkeys(METRICS, 0.1), {"tpot": 0.1, "throughput": -0.2, "ttft": 3.0}])
    assert [text.partition(":")[0] for text in grown] == ["vllm-1 on b200"]
    assert sample.worse(known, [dict.fromkeys(METRICS, math.nan)] * 2) != []  # a failure is no success


@pytest.mark.parametrize("text", ["id,gpu\nx,h100\n", "\x00", "tpot_log_error\nmany\n"])
def test_a_table_that_is_none_is_refused(tmp_path, text):
    path = tmp_path / "sample.csv"
    path.write_text(text, encoding="utf-8")
    if text == "\x00":
        path = tmp_path / "missing.csv"
    with pytest.raises(DataError, match=path.name):
        sample.read(path)


def shipped() -> list[sample.Known]:
    return sample.read(data_path("profiles", "accuracy", "sample.csv"))


def test_the_sample_has_every_engine_gpu_and_model_of_the_cells():
    with data_path("profiles", "accuracy", "cells.csv").open(encoding="utf-8") as file:
        cells = {(row["gpu"], row["engine"]) for row in csv.DictReader(file) if not row["engine"].startswith("helix")}
    assert {(one.point.gpu, one.point.engine) for one in shipped()} == cells
    assert len(shipped()) >= 50


def looked_at(known: list[sample.Known]) -> list[str]:
    found = []
    for one in known:
        try:
            means = simulated_means(one.point)
        except HelixsimError as error:
            pytest.fail(f"{one.point.id} was predicted when the table was written: {error}")
        found.append(sample.errors_of(one.point, means["ttft_ms"], means["tpot_ms"]))
    return sample.worse(known, found)


def test_predictions_of_quick_points_are_no_worse_than_the_table_says():
    quick = [one for one in shipped() if requests_of(one.point) * one.point.output_tokens <= QUICK_TOKENS]
    assert len(quick) >= 10
    assert looked_at(quick) == []


@pytest.mark.slow
def test_predictions_are_no_worse_than_the_table_says():
    assert looked_at(shipped()) == []


def test_a_choice_has_every_stratum_and_its_share():
    points = [one.point for one in many(400)]
    kept = chosen(points, 100)
    assert {(one.gpu, one.engine, one.model) for one in kept} == {(one.gpu, one.engine, one.model) for one in points}
    assert 80 <= len(kept) <= 120
    assert len(set(kept)) == len(kept)
    assert chosen(list(reversed(points)), 100) == kept  # of the points, not of their order
    assert len(chosen(points, 1)) == len({(one.gpu, one.engine, one.model, one.weights) for one in points})
    assert set(chosen(points, 10_000)) == set(points)


def test_throughput_of_a_closed_loop_is_that_of_its_means():
    point = result(concurrency=8, output_tokens=101, ttft_ms=500.0, tpot_ms=10.0).point
    assert point.output_tokens_per_s == pytest.approx(8 * 101 / (0.5 + 100 * 0.010))
    assert throughput(point, 1000.0, 20.0) == pytest.approx(point.output_tokens_per_s / 2)
