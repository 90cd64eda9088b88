"""Causes are named where other measured points show them; constants are counted, with the errors they decide."""

from __future__ import annotations

import pytest
from made_up_points import many, result

from helixsim.accuracy.causes import Causes
from helixsim.accuracy.constants import constants
from helixsim.hardware.catalog import gpu_document


def _cause(one, *others):
    return Causes([one.point, *(other.point for other in others)])(one)


def test_no_cause_without_another_point_or_table() -> None:
    assert _cause(result(2.0)) is None
    assert _cause(result(None)) is None
    assert _cause(result(2.0), result(tpot_ms=60.0, model="gpt-oss-120b", concurrency=64)) is None


def test_more_requests_in_flight_cannot_be_faster() -> None:
    slow = result(0.5, concurrency=16, tpot_ms=40.0)
    assert "20.0 ms with 64 in flight" in (_cause(slow, result(concurrency=64, tpot_ms=20.0)) or "")
    assert _cause(slow, result(concurrency=64, tpot_ms=39.0)) is None
    assert _cause(slow, result(concurrency=8, tpot_ms=20.0)) is None
    # a point that is predicted too slow is not explained by being measured too slow itself
    assert _cause(result(1.5, concurrency=16, tpot_ms=40.0), result(concurrency=64, tpot_ms=20.0)) is None
    fast = result(2.0, concurrency=64, tpot_ms=20.0)
    assert "40.0 ms with 16 in flight" in (_cause(fast, result(concurrency=16, tpot_ms=40.0)) or "")


def test_runs_of_the_same_setting_between_which_the_prediction_lies() -> None:
    old = result(0.6, tpot_ms=30.0, engine_version="0.9")
    new = result(tpot_ms=15.0, engine_version="0.19", id="q")
    found = _cause(old, new)
    assert found is not None
    assert "between 15.0 and 30.0 ms (0.19 and 0.9)" in found
    assert _cause(result(0.1, tpot_ms=30.0, engine_version="0.9"), new) is None
    assert _cause(old, result(tpot_ms=29.0, engine_version="0.19", id="q")) is None


def test_a_version_that_is_measured_apart_in_equal_settings() -> None:
    loads = (1, 2, 4, 8, 16, 32)
    old = [result(concurrency=load, tpot_ms=20.0, engine_version="1", model="deepseek-v3") for load in loads]
    new = [result(concurrency=load, tpot_ms=12.0, engine_version="2", model="deepseek-r1") for load in loads]
    alone = result(1.8, concurrency=64, tpot_ms=14.0, engine_version="2", model="deepseek-r1")
    found = _cause(alone, *old, *new)
    assert found is not None
    assert "0.60 times the TPOT of others in 6 equal settings" in found
    assert _cause(alone, *old[:3], *new[:3]) is None
    too_fast = result(0.5, concurrency=64, tpot_ms=14.0, engine_version="2", model="deepseek-r1")
    assert _cause(too_fast, *old, *new) is None


def test_points_of_one_version_that_are_off_alike() -> None:
    results = [result(0.6, concurrency=load, engine_version="1") for load in (1, 2, 4, 8, 16)]
    causes = Causes([one.point for one in results], results)
    assert "the 5 points" in (causes(results[0]) or "")
    assert "−40\u00a0%" in (causes(results[0]) or "")
    other_way = result(1.6, concurrency=32, engine_version="1")
    assert Causes([], [*results, other_way])(other_way) is None
    assert Causes([], results[:3])(results[0]) is None


@pytest.mark.parametrize("predictor", ["operators", "static"])
def test_tables_that_are_as_far_off(predictor: str) -> None:
    assert "−50\u00a0%" in (_cause(result(0.4, **{predictor: 0.5})) or "")
    assert _cause(result(0.4, **{predictor: 0.9})) is None
    assert _cause(result(0.4, **{predictor: 2.0})) is None


def test_constants_have_the_errors_of_every_gpu_and_engine_once() -> None:
    results = many(120)
    found = constants(results)
    assert found is not None
    kernels = [row for row in found["rows"] if row["name"].startswith("kernels")]
    hosts = [row for row in found["rows"] if row["name"].startswith("host")]
    for rows in (kernels, hosts):
        assert sum(one.count for row in rows for _, one in row["errors"]) == len(results)
    assert all(row["count"] > 0 and row["source"] for row in kernels)
    assert constants([]) is None


def test_gpus_without_constants_of_their_own_share_a_row() -> None:
    assert gpu_document("h200")["kernels"]["name"] == "h100"
    found = constants([result(gpu="h100"), result(1.3, gpu="h200")])
    assert found is not None
    row = found["rows"][0]
    assert row["name"] == "kernels: h100"
    assert [name for name, _ in row["errors"]] == ["h100", "h200"]
