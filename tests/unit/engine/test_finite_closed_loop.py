"""A closed loop of so many requests, as ``--max-concurrency C --num-prompts N`` measures it."""

from __future__ import annotations

import builders
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulating import SECOND, random_load, requests, run

from helixsim.domain.request import FeedMode, Window
from helixsim.errors import SimulationError

TO_THE_END = Window(0, None, drain=True)


@given(number=st.integers(1, 40), concurrency=st.integers(1, 12), seed=st.integers(0, 50))
@settings(max_examples=25, deadline=None)
def test_all_of_them_finish_never_more_than_so_many_at_once_and_the_run_ends_with_the_last(
    number, concurrency, seed
) -> None:
    load = random_load(seed, number, rate_rps=1.0, prompt=60, output=12)
    result = run(
        builders.two_node_pipeline(), load, mode=FeedMode.CLOSED_LOOP, concurrency=concurrency, window=TO_THE_END
    )
    rows = result.requests
    assert len(rows.finish_ns) == len(load)
    assert (rows.finish_ns > 0).all()
    assert result.window_end_ns == rows.finish_ns.max() <= result.end_ns
    for at in rows.arrival_ns:
        assert ((rows.arrival_ns <= at) & (rows.finish_ns > at)).sum() <= concurrency
    later = sorted(rows.arrival_ns)[concurrency:]
    assert set(later) <= set(rows.finish_ns.tolist()), "each comes when another has finished"


def test_a_run_that_ends_within_its_warm_up_measured_nothing_and_says_so() -> None:
    load = requests((0, 10, 5), (0, 10, 5))
    with pytest.raises(
        SimulationError, match=r"within the warm-up of 1000 s \(workload.warmup\): nothing was measured"
    ):
        run(
            builders.two_node_pipeline(),
            load,
            mode=FeedMode.CLOSED_LOOP,
            concurrency=1,
            window=Window(1000 * SECOND, None, drain=True),
        )
