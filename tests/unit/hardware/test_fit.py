"""Fits: rising, with a floor, few knots, close to the table, robust to its rounding."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helixsim import yamlio
from helixsim.errors import DataError
from helixsim.hardware import catalog, compute_file, fit
from helixsim.hardware.measured import Timings

TABLE = [(0.0, 0.0)] + [(float(x), max(7.0, 2.0 + 0.05 * x)) for x in range(10, 401, 10)]


def test_a_roofline_is_found_again() -> None:
    fitted = fit.fit_curve(TABLE)
    assert fitted.worst_error < 0.02
    assert len(fitted.curve.x) <= fit.MAX_KNOTS
    assert fitted.curve(1) == fitted.curve(10) == pytest.approx(7e6, rel=0.01)  # the floor, not a line to (0, 0)
    assert fitted.curve(800) == pytest.approx(42e6, rel=0.03)  # the last slope carries on


@pytest.mark.parametrize("step", [0.1, 1.0])
def test_rounding_of_the_table_does_not_bend_the_fit(step: float) -> None:
    rounded = [(x, round(y / step) * step) for x, y in TABLE]
    fitted = fit.fit_curve(rounded)
    for x, y in TABLE[1:]:
        assert fitted.curve(x) / 1e6 == pytest.approx(y, abs=0.75 * step)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.integers(1, 4000), st.integers(1, 5000)), min_size=1, max_size=25, unique_by=lambda p: p[0])
)
def test_any_table_gives_a_rising_positive_curve(points: list[tuple[int, int]]) -> None:
    table = [(float(x), y / 10) for x, y in sorted(points)]
    fitted = fit.fit_curve(table, floor_ms=3.0)
    times = np.array(fitted.curve.y_ns)
    assert (np.diff(times) >= 0).all()
    assert times[0] > 0
    assert fitted.curve.x[0] == 1.0
    assert len(fitted.curve.x) <= fit.MAX_KNOTS + 2
    assert 0 <= fitted.median_error <= fitted.worst_error
    lowest, highest = min(y for _, y in table), max(y for _, y in table)
    if len(table) <= 2:
        assert lowest * 0.999999 <= fitted.curve(table[-1][0]) / 1e6 <= highest * 1.000001


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=30))
def test_isotonic_regression_rises_and_keeps_the_mean(values: list[float]) -> None:
    result = fit.isotonic(np.array(values), np.ones(len(values)))
    assert len(result) == len(values)
    assert (np.diff(result) >= 0).all()
    assert result.sum() == pytest.approx(sum(values))
    if values == sorted(values):
        assert result.tolist() == values


def test_resolution_looks_at_all_later_values() -> None:
    assert fit.resolution(np.array([1.4, 2.0, 2.5, 3.0, 4.0])).tolist() == [0.1, 0.1, 0.1, 1.0, 1.0]
    assert fit.resolution(np.array([1.234, 2.01])).tolist() == [0.001, 0.01]


def test_prefill_begins_at_the_floor_of_decode() -> None:
    prefill = tuple((float(x), 0.05 * x) for x in range(250, 3000, 250))
    fitted = fit.fit_timings(Timings("m", "k", prefill, tuple(TABLE)), "fp16", "here")
    floor = fitted.decode.curve(1)
    assert fitted.prefill.curve(1) == floor
    assert fitted.prefill.curve(130) == floor  # 7 ms meet 0.05 ms a token at 140 tokens
    assert fitted.prefill.curve(200) == pytest.approx(10e6, rel=0.01)


def test_a_fit_survives_its_file(tmp_path: Path) -> None:
    timings, limits = tmp_path / "timings.csv", tmp_path / "limits.csv"
    rows = [f"l4,{phase},{x:g},{y:g}" for phase in ("prefill", "decode") for x, y in TABLE]
    timings.write_text("\n".join(["gpu,phase,batch_tokens,ms_per_layer", *rows]))
    named = [f"llama-2-70b,{row}" for row in rows]
    timings.write_text("\n".join(["model,gpu,phase,batch_tokens,ms_per_layer", *named]))
    limits.write_text(
        "gpu,layers,kv_tokens_per_layer,prompt_max_requests,prompt_max_tokens,decode_max_tokens\n"
        "l4,1,4258336,1,2048,380\nl4,2,1920000,1,2048,380\nl4,3,1140736,1,2048,280\n"
    )
    (fitted,) = fit.fit_tables(timings, limits, "fp16", 0.8, "here")
    assert fitted.planner is not None
    assert fitted.planner.max_layers == 3
    path = tmp_path / "fitted.yaml"
    path.write_text(yamlio.dump(compute_file.document([fitted])))
    (read,) = compute_file.read(path)
    assert read.batch == fitted.batch
    assert read.planner == fitted.planner
    assert read.memory is not None
    assert fitted.memory is not None
    assert read.memory.workspace_bytes == fitted.memory.workspace_bytes
    for batch in (1, 30, 200, 1000):
        assert read.prefill.curve(batch) == pytest.approx(fitted.prefill.curve(batch), rel=1e-3)
        assert read.decode.curve(batch) == pytest.approx(fitted.decode.curve(batch), rel=1e-3)


def test_limits_of_one_layer_count_are_too_few(tmp_path: Path) -> None:
    timings, limits = tmp_path / "timings.csv", tmp_path / "limits.csv"
    rows = [f"llama-2-70b,l4,{phase},{x:g},{y:g}" for phase in ("prefill", "decode") for x, y in TABLE]
    timings.write_text("\n".join(["model,gpu,phase,batch_tokens,ms_per_layer", *rows]))
    limits.write_text(
        "gpu,layers,kv_tokens_per_layer,prompt_max_requests,prompt_max_tokens,decode_max_tokens\nl4,1,4258336,1,2048,380\n"
    )
    with pytest.raises(DataError, match="at least two layer counts"):
        fit.fit_tables(timings, limits, "fp16", 0.8, "here")


FITTED = """model: m
precision: fp16
source: here
kinds:
  l4:
    prefill: {tokens: [1, 250], ms: [7, 12], median_error: 0, worst_error: 0}
    decode: {seqs: [2, 100], ms: [7, 9], median_error: 0, worst_error: 0}
    batch_limits: {max_prefill_requests: 1, max_prefill_tokens: 2048, up_to_layers: [6, 7], max_decode_seqs: [380, 280]}
"""


def test_batch_limits_are_spread_over_the_layers(tmp_path: Path) -> None:
    path = tmp_path / "fitted.yaml"
    path.write_text(FITTED)
    (fitted,) = compute_file.read(path)
    assert [limits.max_decode_seqs for limits in fitted.batch] == [380] * 6 + [280]
    assert fitted.memory is None
    assert compute_file.document([fitted])["kinds"]["l4"]["batch_limits"]["up_to_layers"] == [6, 7]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[1, 250]", "[250, 1]", "fitted.yaml:6:.*must increase"),
        ("ms: [7, 12]", "ms: [7]", "as many x as y"),
        ("[6, 7]", "[7, 6]", "up_to_layers: must increase"),
        ("[380, 280]", "[380]", "one entry for each"),
        ("worst_error: 0}\n    decode", "}\n    decode", "worst_error: required key is missing"),
        (
            "    batch_limits",
            "    limits",
            "8:5: kinds.l4.limits: unknown key 'limits'; did you mean 'batch_limits'",
        ),
    ],
)
def test_faults_of_a_compute_file(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in FITTED
    path = tmp_path / "fitted.yaml"
    path.write_text(FITTED.replace(old, new))
    with pytest.raises(DataError, match=message):
        compute_file.read(path)


@pytest.mark.parametrize("name", compute_file.fitted_names())
def test_committed_profiles_rise_and_stay_close_to_their_tables(name: str) -> None:
    model, _, kind = name.partition("/")
    (fitted,) = [entry for entry in compute_file.committed(model) if entry.kind == kind]
    gpu, _ = catalog.split_kind(kind)
    assert gpu in catalog.gpu_names()
    for curve in (fitted.prefill, fitted.decode):
        assert list(curve.curve.y_ns) == sorted(curve.curve.y_ns)
        assert curve.median_error < 0.05
    assert fitted.prefill.curve(1) == fitted.decode.curve(1)
    assert fitted.memory is not None
    assert fitted.memory.worst_error < 0.01
    assert fitted.planner is not None
    assert fitted.planner.typical_layers <= fitted.planner.max_layers == len(fitted.batch)


def test_all_measured_pairs_are_committed() -> None:
    assert len(compute_file.fitted_names()) == 14
