"""How many tokens a step with draft tokens yields: laws of the distribution, and draws that are the request's own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helixsim.domain.speculation import Speculation

RATES = st.lists(st.floats(0, 1), min_size=0, max_size=6).map(lambda rates: tuple(sorted(rates, reverse=True)))


@given(rates=RATES, tokens=st.integers(0, 300), seed=st.integers(0, 2**64), request=st.integers(0, 2**40))
def test_steps_add_up_to_the_output_and_hold_one_to_k_plus_1_tokens(rates, tokens, seed, request):
    law = Speculation(rates)
    steps = law.step_tokens(tokens, seed, request)
    assert steps.sum() == tokens
    assert all(1 <= step <= law.k + 1 for step in steps)
    assert list(steps) == list(law.step_tokens(tokens, seed, request))


@pytest.mark.parametrize("k", [1, 3, 7])
def test_certain_acceptance_divides_steps_by_k_plus_1(k):
    steps = Speculation.of_rate(k, 1.0).step_tokens(1000, 3, 4)
    assert len(steps) == -(-1000 // (k + 1))
    assert set(steps[:-1]) == {k + 1}


def test_no_draft_tokens_and_no_acceptance_are_a_token_a_step():
    for law in (Speculation(()), Speculation.of_rate(0, 0.9), Speculation.of_rate(4, 0.0)):
        assert law.mean_tokens == 1
        assert list(law.step_tokens(50, 1, 2)) == [1] * 50


def test_drawn_steps_have_the_rates_of_each_position():
    law = Speculation((0.9, 0.5, 0.2))
    steps = np.concatenate([law.step_tokens(2000, 0, request)[:-1] for request in range(50)])
    for position, rate in enumerate(law.rates):
        assert (steps > position + 1).mean() == pytest.approx(rate, abs=4 * (rate * (1 - rate) / len(steps)) ** 0.5)
    assert steps.mean() == pytest.approx(law.mean_tokens, rel=0.01)


def test_a_longer_output_begins_with_the_steps_of_a_shorter_one():
    law = Speculation.of_rate(3, 0.7)
    short, long = law.step_tokens(100, 5, 6), law.step_tokens(200, 5, 6)
    assert list(long[: len(short) - 1]) == list(short[:-1])
    assert list(law.step_tokens(200, 5, 7)) != list(long)
    assert list(law.step_tokens(200, 6, 6)) != list(long)


@given(rates=RATES, seed=st.integers(0, 100), done=st.integers(0, 30))
def test_steps_go_on_as_they_would_have_wherever_one_begins_anew(rates, seed, done):
    """A sequence that joins another batch has the steps that it would have had in its own."""
    law = Speculation(rates)
    steps = law.step_tokens(60, seed, 1, done)
    for number in range(len(steps)):
        taken = int(steps[:number].sum())
        assert list(law.step_tokens(60 - taken, seed, 1, done + taken)) == list(steps[number:])


def test_a_rate_and_shares_of_counts_are_the_same_law():
    of_rate = Speculation.of_rate(2, 0.6)
    of_counts = Speculation.of_counts((0.4, 0.24, 0.36))
    assert of_counts.rates == pytest.approx(of_rate.rates)
    assert of_rate.mean_tokens == pytest.approx(1 + 0.6 + 0.36)


@pytest.mark.parametrize("rates", [(0.5, 0.6), (1.1,), (-0.1,)])
def test_rates_that_no_distribution_has_are_refused(rates):
    with pytest.raises(ValueError, match="acceptance rates"):
        Speculation(rates)
