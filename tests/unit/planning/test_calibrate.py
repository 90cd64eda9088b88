"""Calibration: constants that were hidden are found again, and right ones are left alone."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helixsim import yamlio
from helixsim.benchmarks.benchmark import METRICS, Benchmark, Lengths, Load
from helixsim.config.edit import edits_of
from helixsim.errors import DataError
from helixsim.experiment import Experiment
from helixsim.hardware import catalog
from helixsim.hardware.calibration import load_calibration, scaled
from helixsim.hardware.roofline import roofline
from helixsim.planning.calibrate import CalibrationFit, calibrate
from helixsim.planning.calibrate_fit import identified
from helixsim.planning.replay import Point, ReplayTask, measured_points, placement_of, replay
from helixsim.runtime.pool import Serial

LOADS = ((1, 512, 96), (4, 512, 96), (16, 1500, 48), (32, 128, 128), (64, 512, 64))
"""Concurrency, prompt and output tokens."""


def experiment(gpus: int = 1) -> Experiment:
    return Experiment.from_data({
        "schema": 1,
        "model": "llama-3-8b",
        "engine": {"name": "vllm-1", "timings": "analytic"},
        "cluster": {
            "nodes": [{"gpu": "h100", "gpus": gpus}],
            "network": {"intra_region": {"bandwidth": "10 Gbit/s", "latency": "0.1 ms"}},
        },
        "workload": {
            "lengths": {"distribution": "fixed", "prompt_tokens": 100, "output_tokens": 10},
            "arrivals": {"process": "poisson", "rate": 1, "num_requests": 20},
        },
        "systems": [{"name": "one", "placement": "replicas", "routing": "least_loaded"}],
    })  # fmt: skip


def measured(
    exp: Experiment, folder: Path, hidden: dict[str, Any] | None, loads: Any = LOADS
) -> list[tuple[str, Benchmark]]:
    """Benchmarks of a server whose constants are hidden: the simulation under them."""
    name, placement = placement_of(exp, None)
    if hidden is not None:
        (folder / "hidden.yaml").write_text(yamlio.dump({"schema": 1, **hidden}))
        exp = exp.with_(edits_of({"engine.calibration": str(folder / "hidden.yaml")}))
    found = []
    for concurrency, prompt, output in loads:
        requests = max(10, 3 * concurrency)
        load = Load(None, None, concurrency, requests, Lengths(prompt, 0.0), Lengths(output, 0.0))
        (point,) = measured_points(exp, [("", Benchmark("", {}, load))], folder)
        keys = replay(ReplayTask(point, name, placement), lambda _share, _what: None).summary.vllm_keys()
        figures = {key: keys[key] for key in METRICS if keys.get(key) is not None}
        found.append((f"c{concurrency}", Benchmark("", figures, load)))
    return found


def fit(exp: Experiment, benchmarks: list[tuple[str, Benchmark]], folder: Path) -> CalibrationFit:
    name, placement = placement_of(exp, None)
    return calibrate(exp, name, placement, measured_points(exp, benchmarks, folder), folder, Serial())


def after(found: CalibrationFit) -> dict[str, float]:
    return {one.name: one.after for one in found.constants}


def test_hidden_host_times_are_found(tmp_path: Path) -> None:
    hidden = {"host": {"batch_overhead": "1.6 ms", "sequence_overhead": "0.06 ms"}}
    found = fit(experiment(), measured(experiment(), tmp_path, hidden), tmp_path)
    assert found.improved
    assert found.error_after < 0.02 < 0.1 < found.error_before
    assert after(found)["batch_overhead"] == pytest.approx(1.6e-3, rel=0.1)
    assert after(found)["sequence_overhead"] == pytest.approx(0.06e-3, rel=0.1)
    assert after(found)["h100 compute_efficiency"] == pytest.approx(1.0, abs=0.03)
    assert max(abs(error) for point in found.points for error in point.held_out.values()) < 0.05


@pytest.mark.slow
def test_a_hidden_compute_efficiency_is_found(tmp_path: Path) -> None:
    found = fit(
        experiment(), measured(experiment(), tmp_path, {"gpus": {"h100": {"compute_efficiency": 0.75}}}), tmp_path
    )
    assert found.improved
    assert after(found)["h100 compute_efficiency"] == pytest.approx(0.75, rel=0.05)
    assert after(found)["batch_overhead"] == pytest.approx(0.4e-3, abs=0.15e-3)


@pytest.mark.slow
def test_a_hidden_interconnect_of_several_gpus_is_found(tmp_path: Path) -> None:
    exp = experiment(gpus=4)
    found = fit(exp, measured(exp, tmp_path, {"gpus": {"h100": {"interconnect": 0.4}}}), tmp_path)
    assert found.improved
    assert found.error_after < 0.5 * found.error_before
    assert {one.name for one in found.constants} >= {"h100 interconnect"}


def test_a_server_that_is_faster_than_possible_is_met_at_the_bounds_and_said(tmp_path: Path) -> None:
    faster = [
        (
            label,
            replace(
                one, figures={key: value / (3 if key.endswith("_ms") else 1 / 3) for key, value in one.figures.items()}
            ),
        )
        for label, one in measured(experiment(), tmp_path, None)
    ]
    found = fit(experiment(), faster, tmp_path)
    bound = {one.name: one.after for one in found.constants if one.at_bound}
    assert bound["batch_overhead"] == 0.0
    kernels = catalog.load_gpu("h100").under("vllm").kernels
    assert after(found)["h100 compute_efficiency"] * kernels.fp16.compute_efficiency <= 1 + 1e-6


@pytest.mark.parametrize("noise", [pytest.param(0.0, marks=pytest.mark.slow), 0.02])
def test_nothing_is_gained_where_the_constants_are_right(noise: float, tmp_path: Path) -> None:
    """The error of left-out points does not fall below that of the profiles, whatever noise says."""
    rng = random.Random(3)
    benchmarks = [
        (
            label,
            replace(one, figures={key: value * math.exp(rng.gauss(0, noise)) for key, value in one.figures.items()}),
        )
        for label, one in measured(experiment(), tmp_path, None)
    ]
    found = fit(experiment(), benchmarks, tmp_path)
    assert not found.improved
    if not noise:
        assert found.gain == pytest.approx(1.0, abs=1e-6)
        assert all(one.after == pytest.approx(one.before, rel=1e-6) for one in found.constants)


def test_what_one_load_cannot_tell_apart_is_kept_and_said(tmp_path: Path) -> None:
    loads = ((1, 200, 64), (1, 240, 64), (1, 280, 64))
    found = fit(experiment(), measured(experiment(), tmp_path, {"host": {"batch_overhead": "3 ms"}}, loads), tmp_path)
    kept = {one.name: one.kept for one in found.constants if one.kept}
    assert "sequence_overhead" in kept
    assert any("not distinguishable from" in why for why in kept.values())
    assert all(one.after == one.before for one in found.constants if one.kept)


def test_constants_that_change_all_points_alike_are_not_both_fitted() -> None:
    slopes = np.array([[0.1, 0.2, 0.0, 0.001], [0.2, 0.4, 0.0, 0.0], [0.1, 0.2, 0.0, 0.0]])
    fitted, told, kept = identified(["a", "b", "none", "little"], slopes, np.full(3, 0.02))
    assert fitted == [1]
    assert kept == ["not distinguishable from b", "", "has no effect on these points", "the points hardly depend on it"]
    assert told[1] > 0.9


def test_too_few_points_are_refused(tmp_path: Path) -> None:
    benchmarks = measured(experiment(), tmp_path, None, LOADS[:2])
    with pytest.raises(DataError, match="c1: calibration needs at least 3 points of different load"):
        fit(experiment(), benchmarks, tmp_path)


def test_points_without_times_are_refused(tmp_path: Path) -> None:
    exp = experiment()
    name, placement = placement_of(exp, None)
    load = Load(None, None, 1, 10, Lengths(10), Lengths(10))
    points = [Point(f"p{number}", Benchmark("", {"p99_ttft_ms": 1.0}, load), exp) for number in range(3)]
    with pytest.raises(DataError, match="p0: nothing to fit: the file states no mean_tpot_ms"):
        calibrate(exp, name, placement, points, tmp_path, Serial())


def test_a_calibration_changes_what_it_says_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "schema: 1\nhost: {batch_overhead: 2 ms}\ngpus: {h100: {memory_efficiency: 0.5}, l4: {interconnect: 2}}\n"
    )
    plain, changed = experiment().resolve(), experiment().with_(edits_of({"engine.calibration": str(path)})).resolve()
    assert changed.engine == replace(plain.engine, batch_overhead_ns=2_000_000)
    assert changed.config_hash != plain.config_hash
    assert changed.fleet.cluster == plain.fleet.cluster
    own = experiment().with_(edits_of({"engine.calibration": str(path), "engine.batch_overhead": "3 ms"})).resolve()
    assert own.engine.batch_overhead_ns == 3_000_000


def test_half_the_efficiency_takes_twice_the_time_where_it_decides() -> None:
    """Reading weights decides small decode steps, multiplying decides prompts, and constant parts stay."""
    model, gpu = catalog.load_model("llama-3-70b"), catalog.load_gpu("h100")
    base = roofline(model, gpu, 4)
    slow_memory, slow_compute = (
        roofline(model, scaled(gpu, {key: 0.5}), 4) for key in ("memory_efficiency", "compute_efficiency")
    )
    assert 1.7 < slow_memory.decode(1) / base.decode(1) < 2.0
    assert slow_memory.prefill(8192) / base.prefill(8192) < 1.15
    assert 1.6 < slow_compute.prefill(8192) / base.prefill(8192) <= 2.0
    assert slow_compute.decode(1) / base.decode(1) < 1.05
    assert roofline(model, scaled(gpu, {"interconnect": 0.5}), 4).prefill(8192) > base.prefill(8192)
    assert scaled(gpu, {}) == gpu
    own = catalog.load_gpu("h100")
    for one, slower in zip(own.engines, scaled(own, {"compute_efficiency": 0.5}).engines, strict=True):
        assert slower.kernels.fp16.compute_efficiency == pytest.approx(one.kernels.fp16.compute_efficiency / 2)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("schema: 2\n", "schema"),
        ("schema: 1\nhost: {batch: 1 ms}\n", "unknown key 'batch'"),
        ("schema: 1\nhost: {batch_overhead: 1}\n", "batch_overhead"),
        ("schema: 1\ngpus: {h100: {compute: 0.5}}\n", "compute"),
        ("schema: 1\ngpus: {h100: {compute_efficiency: 0}}\n", "compute_efficiency"),
        ("[]", "mapping"),
    ],
)
def test_damaged_calibrations_are_refused(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(DataError, match=said) as caught:
        load_calibration(path)
    assert str(path) in str(caught.value)
    with pytest.raises(DataError, match="no such file"):
        load_calibration(tmp_path / "absent.yaml")


@pytest.mark.slow
def test_an_unknown_spread_of_lengths_makes_times_of_closed_loops_count_less(tmp_path: Path) -> None:
    """TTFT, which tells the multiply rate, depends on whether all requests end together, which is then not known."""
    exact = measured(experiment(), tmp_path, {"gpus": {"h100": {"compute_efficiency": 0.75}}}, LOADS[:4])
    vague = [
        (label, replace(one, load=replace(one.load, prompt_tokens=Lengths(one.load.prompt_tokens.mean))))
        for label, one in exact
    ]
    told = [
        {one.name: one.told for one in fit(experiment(), benchmarks, tmp_path).constants}["h100 compute_efficiency"]
        for benchmarks in (exact, vague)
    ]
    assert told[1] < 0.8 * told[0]
    notes = [point.notes for point in measured_points(experiment(), vague, tmp_path)]
    assert all(any("not state how they spread" in note for note in one) for one in notes)
