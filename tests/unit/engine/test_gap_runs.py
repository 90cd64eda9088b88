"""Runs of gaps that are counted together give the histogram and the exact sums of the same gaps one by one."""

from __future__ import annotations

from itertools import accumulate

import numpy as np
import pytest

from helixsim.domain.result import GapHistogram
from helixsim.engine.recorder import Recorder

START_NS, END_NS = 10**9, 5 * 10**12


def both(runs: list[tuple[list[int], int, int]], end_ns: int | None = END_NS) -> tuple[GapHistogram, GapHistogram]:
    """Return what is counted of runs of (gaps, requests, end of the first gap), as runs and one gap at a time."""
    together, apart = Recorder(START_NS, end_ns), Recorder(START_NS, end_ns)
    for gaps, count, first_ns in runs:
        ends = list(accumulate(gaps[1:], initial=first_ns))
        together.count_gap_run(np.array(gaps, dtype=np.int64), count, first_ns, ends[-1])
        for gap_ns, now_ns in zip(gaps, ends, strict=True):
            apart.count_gaps(gap_ns, count, now_ns)
    return together.gap_histogram(), apart.gap_histogram()


def assert_same(found: tuple[GapHistogram, GapHistogram]) -> None:
    together, apart = found
    assert together.value_ns.tolist() == apart.value_ns.tolist()
    assert together.count.tolist() == apart.count.tolist()
    assert (together.sum_ns, together.sum_squares_ns2) == (apart.sum_ns, apart.sum_squares_ns2)


@pytest.mark.parametrize("largest_ns", [2, 10**8, 10**10, 10**13])
def test_runs_count_as_their_gaps(largest_ns: int) -> None:
    """Also runs across the ends of the window, more than are kept waiting, and squares beyond 64 bits."""
    rng = np.random.default_rng(largest_ns)
    runs = []
    for _ in range(300):
        gaps = rng.integers(0, largest_ns, int(rng.integers(1, 400)), endpoint=True).tolist()
        runs.append((gaps, int(rng.integers(1, 600)), int(rng.integers(0, 2 * END_NS))))
    found = both(runs)
    assert_same(found)
    assert found[0].count.sum() > 2**15


def test_a_run_longer_than_all_that_wait() -> None:
    gaps = np.random.default_rng(0).integers(1, 10**7, 2**16).tolist()
    assert_same(both([([5, 7], 3, 2 * START_NS), (gaps, 2, 2 * START_NS), ([9], 1, 3 * START_NS)], end_ns=None))


def test_the_histogram_can_be_read_again_after_more_runs() -> None:
    recorder = Recorder(0, None)
    for asked in range(1, 4):
        recorder.count_gap_run(np.array([20_000, 30_000], dtype=np.int64), 2, 1, 2)
        assert recorder.gap_histogram().count.tolist() == [2 * asked, 2 * asked]
