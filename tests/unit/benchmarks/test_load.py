"""The measured load as a workload: what a benchmark asked is what is simulated."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helixsim.benchmarks.benchmark import Benchmark, Lengths, Load, Requests
from helixsim.benchmarks.load import are_alike, differences, workload_of
from helixsim.errors import DataError
from helixsim.experiment import Experiment

FIXED = {"prompt_tokens": Lengths(100, 0.0), "output_tokens": Lengths(10, 0.0)}
ROWS = Requests(np.array([0.0, 0.5, 2.0]), np.array([30.0, 40, 50]), np.array([3.0, 4, 5]), np.ones(3), np.ones(3))
BASE = {
    "schema": 1,
    "model": "llama-3-8b",
    "cluster": {"nodes": [{"gpu": "h100"}], "network": {"intra_region": {"bandwidth": "10 Gbit/s", "latency": "1 ms"}}},
    "systems": [{"name": "one", "placement": "replicas", "routing": "least_loaded"}],
}


def workload(
    folder: Path, load: Load, requests: Requests | None = None, **other: Any
) -> tuple[dict[str, Any], list[str]]:
    """The section and its notes; the section is one that experiments accept."""
    benchmark = Benchmark("tool", {}, load, requests or Requests())
    found, notes = workload_of(benchmark, "a.json", folder / "rows.csv", **other)
    assert Experiment.from_data(BASE | {"workload": found}).resolve().workload_stats.mean_prompt_tokens > 0
    return found, notes


@pytest.mark.parametrize(
    ("load", "arrivals"),
    [
        (Load(None, None, 8, 80, **FIXED), {"process": "closed_loop", "concurrency": 8, "num_requests": 80}),
        (Load(math.inf, 1.0, 8, 80, **FIXED), {"process": "closed_loop", "concurrency": 8, "num_requests": 80}),
        (Load(None, None, 8, 5, **FIXED), {"process": "closed_loop", "concurrency": 5, "num_requests": 5}),
        (Load(math.inf, 1.0, None, 80, **FIXED), {"process": "closed_loop", "concurrency": 80, "num_requests": 80}),
        (Load(2.0, 1.0, None, 80, **FIXED), {"process": "poisson", "rate": 2.0, "num_requests": 80}),
        (Load(2.0, None, None, 80, **FIXED), {"process": "poisson", "rate": 2.0, "num_requests": 80}),
        (Load(2.0, 0.5, None, 80, **FIXED), {"process": "gamma", "rate": 2.0, "burstiness": 0.5, "num_requests": 80}),
        (Load(2.0, math.inf, None, 80, **FIXED), {"process": "constant", "rate": 2.0, "num_requests": 80}),
    ],
)
def test_arrivals(load: Load, arrivals: dict[str, Any], tmp_path: Path) -> None:
    found, notes = workload(tmp_path, load)
    assert found["arrivals"] == arrivals
    assert found["lengths"] == {"distribution": "fixed", "prompt_tokens": 100, "output_tokens": 10}
    assert notes == []


def test_what_is_assumed_is_told(tmp_path: Path) -> None:
    found, notes = workload(tmp_path, Load(None, None, 8, None, **FIXED))
    assert found["arrivals"]["num_requests"] == 80
    assert notes == ["the number of requests is not stated: 80 are simulated"]
    _, notes = workload(tmp_path, Load(2.0, 1.0, 16, 80, **FIXED))
    assert notes == ["requests wait for nothing; the benchmark had at most 16 in the system"]
    _, notes = workload(tmp_path, Load(None, None, None, None), ROWS)
    assert notes == ["neither rate nor concurrency is stated: requests come at their measured starts"]


def test_single_requests_come_at_their_starts_with_their_lengths(tmp_path: Path) -> None:
    found, notes = workload(tmp_path, Load(1.5, 1.0, None, 3), ROWS)
    assert (found["arrivals"], notes) == ({"process": "trace"}, [])
    assert (tmp_path / "rows.csv").read_text().splitlines() == [
        "arrival_s,prompt_tokens,output_tokens", "0.000000000,30,3", "0.500000000,40,4", "2.000000000,50,5"
    ]  # fmt: skip
    found, _ = workload(tmp_path, Load(None, None, 2, 3), ROWS)
    assert found["arrivals"]["process"] == "closed_loop"
    assert "trace" in found


@pytest.mark.parametrize(("prompt", "output"), [((500, 100), (80, 20)), ((500, 0.0), (80, 20)), ((500, 600), (80, 90))])
def test_drawn_lengths_have_the_measured_mean_and_spread(prompt, output, tmp_path: Path) -> None:
    load = Load(None, None, 4, 4000, Lengths(*prompt), Lengths(*output))
    found, _ = workload(tmp_path, load, most_tokens=8192)
    from helixsim.workload.lengths.registry import build
    from helixsim.workload.spec import LengthsSpec

    lengths = dict(found["lengths"])
    spec = LengthsSpec(lengths.pop("distribution"), tuple(lengths.items()))
    drawn = build(spec).sample(np.random.default_rng(1), 20_000)
    for values, (mean, sd) in zip(drawn, (prompt, output), strict=True):
        assert values.mean() == pytest.approx(mean, rel=0.03)
        assert values.std() == pytest.approx(sd, rel=0.1, abs=1)


def test_own_lengths_are_taken_where_the_spread_is_not_stated(tmp_path: Path) -> None:
    own = {"distribution": "uniform", "prompt_min": 50, "prompt_max": 150, "output_min": 5, "output_max": 15}
    vague = Load(None, None, 4, 40, Lengths(100), Lengths(10))
    assert workload(tmp_path, vague, own_lengths=own) == (
        {"arrivals": {"process": "closed_loop", "concurrency": 4, "num_requests": 40}, "drain": True, "lengths": own},
        ["lengths spread as those of the experiment"],
    )
    assert (
        workload(tmp_path, Load(None, None, 4, 40, **FIXED), own_lengths=own)[0]["lengths"]["distribution"] == "fixed"
    )
    assert are_alike(Benchmark("", {}, vague), 101, 10)
    assert not are_alike(Benchmark("", {}, vague), 110, 10)
    assert not are_alike(Benchmark("", {}, Load()), 100, 10)


@pytest.mark.parametrize(
    ("load", "said"),
    [
        (Load(**FIXED), "concurrency, rate and starts of requests not stated"),
        (Load(2.0, **FIXED), "number of requests not stated"),
        (Load(None, None, 4, 40), "lengths of prompts and outputs not stated"),
    ],
)
def test_a_load_that_is_not_stated_is_refused(load: Load, said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"a.json: the measured load cannot be simulated: {said}"):
        workload(tmp_path, load)


def test_differences_of_loads_are_told() -> None:
    closed, opened = (Benchmark("", {}, Load(*how, 80, **FIXED)) for how in ((None, None, 8), (2.0, 1.0, None)))
    loop = {"process": "closed_loop", "concurrency": 8}
    assert differences(closed, loop, 100.0, 10.0) == []
    assert differences(closed, loop | {"concurrency": 4}, 100, 20) == [
        "measured with concurrency 8, simulated as closed loop, concurrency 4",
        "mean output of 10 tokens measured, 20 simulated",
    ]
    assert differences(opened, {"process": "poisson", "rate": "2 /s"}, None, None) == []
    assert differences(opened, {"process": "poisson", "rate": 120}, None, None) == [
        "measured at 2 requests/s, simulated at 120"
    ]
    assert differences(opened, {"process": "poisson", "rate": "120 /min"}, None, None) == []
    assert differences(opened, loop, 100, 10) == ["measured at 2 requests/s, simulated as closed loop, concurrency 8"]
    assert differences(Benchmark("", {}, Load()), loop, 100, 10) == []
