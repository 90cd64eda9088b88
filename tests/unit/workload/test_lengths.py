from __future__ import annotations

from dataclasses import asdict
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helixsim.datafiles import data_path
from helixsim.domain.request import Request
from helixsim.errors import ConfigError, DataError
from helixsim.rng import stream
from helixsim.workload.lengths.base import LengthDistribution, draw, exclusion, inside, limited_means
from helixsim.workload.lengths.fit import fit_lengths, save_histogram
from helixsim.workload.lengths.recorded import HistogramLengths, JointHistogram, RecordedPairs
from helixsim.workload.lengths.registry import build, get, names
from helixsim.workload.readers.registry import read_trace
from helixsim.workload.spec import LengthLimits, LengthsSpec

PAPER_LIMITS = LengthLimits(4, 2048, 4, 1024)
SAMPLE = str(data_path("traces", "sample.csv"))
CONVERSATION = str(data_path("traces", "lengths", "azure-conversation.json"))
SPECS = [
    LengthsSpec("azure-conversation"),
    LengthsSpec("azure-code"),
    LengthsSpec("fixed", (("prompt_tokens", 100), ("output_tokens", 20))),
    LengthsSpec("uniform", (("prompt_min", 1), ("prompt_max", 9), ("output_min", 5), ("output_max", 5))),
    LengthsSpec("lognormal", (("prompt_mean", 800), ("prompt_cv", 0.9), ("output_mean", 3.0), ("output_cv", 1.5))),
    LengthsSpec("trace", (("path", SAMPLE),)),
    LengthsSpec("fitted", (("path", CONVERSATION),)),
]


def test_every_registered_distribution_is_tested() -> None:
    assert {spec.distribution for spec in SPECS} == set(names())


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.distribution)
def test_samples_are_whole_positive_and_have_the_stated_mean(spec: LengthsSpec) -> None:
    distribution = build(spec)
    n = 100_000
    for lengths, mean in zip(distribution.sample(stream(3, "test"), n), distribution.mean(), strict=True):
        assert lengths.dtype == np.int64
        assert lengths.shape == (n,)
        assert lengths.min() >= 1
        assert abs(lengths.mean() - mean) <= 5 * lengths.std() / np.sqrt(n) + 0.01 * mean * (mean < 5)


@settings(deadline=None, max_examples=20)
@given(
    spec=st.sampled_from(SPECS),
    low=st.integers(1, 3),
    high=st.integers(5, 3000),
    seed=st.integers(0, 5),
)
def test_drawn_pairs_lie_within_limits_and_have_the_limited_mean(
    spec: LengthsSpec, low: int, high: int, seed: int
) -> None:
    distribution = build(spec)
    limits = LengthLimits(low, high, low, high)
    try:
        means = limited_means(distribution, limits)
    except ConfigError:
        assert not inside(limits, *distribution.sample(stream(seed, "x"), 20)).all()
        return
    pairs = np.array(list(islice(draw(distribution, limits, stream(seed, "lengths")), 3000)))
    assert all(exclusion(limits, prompt, output) is None for prompt, output in pairs.tolist())
    assert 0 <= means.redrawn_share < 1
    for drawn, mean in zip(pairs.T, (means.prompt_tokens, means.output_tokens), strict=True):
        assert abs(drawn.mean() - mean) <= 6 * drawn.std() / np.sqrt(len(drawn)) + 0.01 * mean


def test_means_without_limits_are_exact() -> None:
    distribution = build(SPECS[0])
    means = limited_means(distribution, LengthLimits())
    assert (means.prompt_tokens, means.output_tokens) == distribution.mean()
    assert means.redrawn_share == 0.0


def test_the_conversation_load_of_the_paper() -> None:
    """The paper's artifact keeps 86 % of the conversation trace, of mean 763 prompt and 232 output tokens."""
    means = limited_means(build(LengthsSpec("azure-conversation")), PAPER_LIMITS)
    assert means.prompt_tokens == pytest.approx(763.1, rel=0.005)
    assert means.output_tokens == pytest.approx(232.4, rel=0.005)
    assert means.redrawn_share == pytest.approx(1 - 16657 / 19366, abs=0.005)
    prompt, output = build(LengthsSpec("azure-conversation")).sample(stream(0, "x"), 200_000)
    kept = inside(PAPER_LIMITS, prompt, output)
    assert np.corrcoef(prompt[kept], output[kept])[0, 1] == pytest.approx(0.51, abs=0.02)


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 1000), scale=st.sampled_from([3, 40, 3000]), atom=st.integers(1, 50))
def test_a_fit_keeps_its_errors_small_and_its_counts_whole(seed: int, scale: int, atom: int) -> None:
    rng = np.random.default_rng(seed)
    prompt = rng.integers(1, scale + 1, 500)
    prompt[rng.random(500) < 0.3] = atom
    output = 1 + (prompt // 2) + rng.geometric(0.2, 500)
    requests = [Request(i, 0, int(p), int(o)) for i, (p, o) in enumerate(zip(prompt, output, strict=True))]
    histogram, errors = fit_lengths(requests)
    assert sum(histogram.prompt_counts) == sum(map(sum, histogram.output_counts)) == errors.requests == 500
    assert max(errors.prompt_ks, errors.output_ks) <= 0.01
    assert max(abs(errors.prompt_mean_error), abs(errors.output_mean_error)) <= 0.005
    assert abs(errors.correlation_recorded - errors.correlation_fitted) <= 0.1
    drawn_prompt, drawn_output = HistogramLengths(histogram).sample(stream(seed, "x"), 2000)
    assert prompt.min() <= drawn_prompt.min() <= drawn_prompt.max() <= prompt.max()
    assert output.min() <= drawn_output.min() <= drawn_output.max() <= output.max()


def test_shipped_fits_are_what_their_own_sample_gives_back() -> None:
    """Two ways to the same numbers: the stated correlation, and that of a large sample."""
    for name in ("azure-conversation", "azure-code"):
        prompt, output = build(LengthsSpec(name)).sample(stream(1, "x"), 400_000)
        requests = [
            Request(0, 0, p, o) for p, o in zip(prompt[:50_000].tolist(), output[:50_000].tolist(), strict=True)
        ]
        _, errors = fit_lengths(requests)
        assert errors.correlation_fitted == pytest.approx(np.corrcoef(prompt, output)[0, 1], abs=0.02)


def test_a_saved_histogram_is_loaded_unchanged(tmp_path: Path) -> None:
    histogram, errors = fit_lengths(read_trace(Path(SAMPLE)))
    save_histogram(tmp_path / "fit.json", histogram, errors, {"origin": "a test"})
    assert JointHistogram.load(tmp_path / "fit.json") == histogram
    with pytest.raises(DataError, match="a length histogram of"):
        JointHistogram.load(Path(SAMPLE))
    with pytest.raises(DataError, match="no such file"):
        JointHistogram.load(tmp_path / "missing.json")
    broken = asdict(histogram) | {"prompt_counts": histogram.prompt_counts[:-1]}
    with pytest.raises(ValueError, match="are inconsistent"):
        JointHistogram(**broken)


def test_a_fit_refuses_too_few_requests() -> None:
    with pytest.raises(DataError, match="at least 100"):
        fit_lengths([Request(0, 0, 1, 1)])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (LengthsSpec("lognorml"), "did you mean 'lognormal'"),
        (LengthsSpec("fixed", (("prompt_token", 5), ("output_tokens", 1))), "did you mean 'prompt_tokens'"),
        (LengthsSpec("fixed", (("prompt_tokens", 5),)), "'output_tokens' is missing"),
        (LengthsSpec("fixed", (("prompt_tokens", 5.5), ("output_tokens", 1))), "expected a whole number"),
        (LengthsSpec("fixed", (("prompt_tokens", 0), ("output_tokens", 1))), "must be 1 to .* tokens, got 0"),
        (LengthsSpec("trace", (("path", 3),)), "expected text"),
        (
            LengthsSpec("uniform", (("prompt_min", 9), ("prompt_max", 2), ("output_min", 1), ("output_max", 2))),
            "prompt_max 2 is below prompt_min 9",
        ),
        (
            LengthsSpec("lognormal", (("prompt_mean", 9), ("prompt_cv", -1), ("output_mean", 9), ("output_cv", 1))),
            "prompt_cv must be 0 to 1000",
        ),
    ],
)
def test_wrong_options_are_refused(spec: LengthsSpec, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(spec)


def test_limits_that_admit_nothing_are_refused() -> None:
    distribution: LengthDistribution = build(SPECS[2])
    with pytest.raises(ConfigError, match="admit 0 of"):
        limited_means(distribution, LengthLimits(min_prompt_tokens=101))
    with pytest.raises(ConfigError, match="unknown length distribution"):
        get("none")
    with pytest.raises(DataError, match="no recorded request"):
        RecordedPairs([])


RECORDED = {
    "azure-conversation": {"requests": 19366, "means": (1154.697, 211.126), "medians": (1020, 129)},
    "azure-code": {"requests": 8819, "means": (2047.848, 27.883), "medians": (1469, 13)},
}
"""Counts, and prompt and output tokens, of the traces behind the shipped histograms (Azure, 2023, Splitwise)."""


@pytest.mark.parametrize("name", RECORDED)
def test_shipped_histograms_have_the_figures_of_the_recorded_traces(name: str) -> None:
    known, histogram = RECORDED[name], JointHistogram.load(data_path("traces", "lengths", f"{name}.json"))
    assert sum(histogram.prompt_counts) == known["requests"]
    axes = (
        (histogram.prompt_edges, np.array(histogram.prompt_counts)),
        (histogram.output_edges, np.array(histogram.output_counts).sum(axis=0)),
    )
    for (edges, counts), mean, median in zip(axes, known["means"], known["medians"], strict=True):
        low, high = np.array(edges[:-1]) + 1, np.array(edges[1:])
        assert (counts * (low + high) / 2).sum() / counts.sum() == pytest.approx(mean, rel=0.002)
        cell = int(np.searchsorted(counts.cumsum(), counts.sum() / 2))
        assert low[max(cell - 1, 0)] <= median <= high[min(cell + 1, len(high) - 1)]
