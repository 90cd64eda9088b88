from __future__ import annotations

from itertools import chain, islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helixsim.domain.request import FeedMode
from helixsim.errors import ConfigError
from helixsim.rng import stream
from helixsim.units import NS_PER_S
from helixsim.workload.arrivals import PROCESSES, names, process_of
from helixsim.workload.spec import ArrivalsSpec

GENERATED = [name for name in names() if PROCESSES[name].generate is not None]


def times_ns(spec: ArrivalsSpec, n: int, seed: int = 0) -> np.ndarray:
    generate = process_of(spec).generate
    assert generate is not None
    assert spec.rate_rps is not None
    chunks = generate(spec, spec.rate_rps, stream(seed, "arrivals"))
    return np.fromiter(islice(chain.from_iterable(chunk.tolist() for chunk in chunks), n), dtype=np.int64, count=n)


@settings(deadline=None, max_examples=20)
@given(rate=st.floats(0.01, 1e3), seed=st.integers(0, 9))
@pytest.mark.parametrize("name", GENERATED)
def test_times_are_whole_sorted_and_not_negative(name: str, rate: float, seed: int) -> None:
    times = times_ns(ArrivalsSpec(name, rate_rps=rate), 5000, seed)
    assert times[0] >= 0
    assert (np.diff(times) >= 0).all()


@pytest.mark.parametrize(("shape", "cv"), [(1.0, 1.0), (0.25, 2.0), (4.0, 0.5)])
def test_gamma_gaps_have_mean_one_over_rate_and_cv_one_over_root_shape(shape: float, cv: float) -> None:
    n = 100_000
    gaps = np.diff(times_ns(ArrivalsSpec("gamma", rate_rps=3.0, burstiness=shape), n)) / NS_PER_S
    assert gaps.mean() == pytest.approx(1 / 3, abs=5 * cv / 3 / np.sqrt(n))
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.05)


def test_poisson_counts_have_variance_equal_to_their_mean() -> None:
    counts = np.bincount(times_ns(ArrivalsSpec("poisson", rate_rps=5.0), 100_000) // (3 * NS_PER_S))[:-1]
    bins = len(counts)
    assert counts.mean() == pytest.approx(15.0, abs=5 * np.sqrt(15 / bins))
    assert counts.var() / counts.mean() == pytest.approx(1.0, abs=5 * np.sqrt(2 / bins))


@pytest.mark.parametrize("rate", [0.5, 5.53, 30.0])
def test_bursty_counts_are_dispersed_and_correlated_as_in_the_azure_trace(rate: float) -> None:
    counts = np.bincount(times_ns(ArrivalsSpec("bursty", rate_rps=rate), int(60_000 * rate)) // (3 * NS_PER_S))[:-1]
    assert counts.mean() / 3 == pytest.approx(rate, rel=0.05)
    assert counts.var() / counts.mean() == pytest.approx(1.7, abs=0.2)
    assert np.corrcoef(counts[:-1], counts[1:])[0, 1] == pytest.approx(0.25, abs=0.05)
    assert np.corrcoef(counts[:-10], counts[10:])[0, 1] == pytest.approx(0.20, abs=0.05)


def test_constant_gaps_do_not_drift() -> None:
    times = times_ns(ArrivalsSpec("constant", rate_rps=3.0), 10_001)
    assert times[0] == 0
    assert times[3] == NS_PER_S
    assert times[9000] == 3000 * NS_PER_S


@pytest.mark.parametrize("name", ["poisson", "gamma", "constant"])
def test_a_higher_rate_is_the_same_load_played_faster(name: str) -> None:
    slow, fast = (times_ns(ArrivalsSpec(name, rate_rps=rate), 5000) for rate in (1.0, 4.0))
    assert np.abs(slow - 4 * fast).max() <= 4 * 5000


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (ArrivalsSpec("poison", rate_rps=1), "did you mean 'poisson'"),
        (ArrivalsSpec("poisson"), r"arrivals.rate: missing; required by poisson"),
        (ArrivalsSpec("closed_loop"), r"arrivals.concurrency: missing"),
        (ArrivalsSpec("poisson", rate_rps=0), "expected a finite number above 0"),
        (ArrivalsSpec("gamma", rate_rps=float("nan"), burstiness=2), "arrivals.rate: got nan"),
        (ArrivalsSpec("gamma", rate_rps=1, burstiness=-1), "arrivals.burstiness: got -1"),
        (ArrivalsSpec("saturate", rate_rps=2), "saturate does not use it"),
        (ArrivalsSpec("poisson", rate_rps=2, burstiness=0.5), "poisson does not use it"),
        (ArrivalsSpec("saturate", num_requests=10), "saturate does not use it"),
        (ArrivalsSpec("poisson", rate_rps=2, num_requests=0), "arrivals.num_requests: got 0"),
    ],
)
def test_wrong_arrivals_are_refused(spec: ArrivalsSpec, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        process_of(spec)


def test_only_open_processes_generate_times() -> None:
    assert all(PROCESSES[name].mode is FeedMode.OPEN for name in GENERATED)
