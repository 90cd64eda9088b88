"""``attention_dp_config``: prompts of attention ranks wait for each other, as in TensorRT-LLM."""

from dataclasses import replace
from itertools import product

import pytest
from replica_cases import chains, kind_of
from simulating import SECOND, inputs_of, random_load

from helixsim.domain.engine import AttentionBalance, EngineSpec
from helixsim.domain.request import FeedMode, Request, Window
from helixsim.engine.rank_balance import RankBalance
from helixsim.engine.sequences import Sequence
from helixsim.engine.simulate import simulate

INSIDE = EngineSpec("inside", loops_inside=True, copies_activations=False, chunks_prompts=True, admission="prompt")


def request(row):
    return Sequence(Request(row, 0, 4, 10), 0, row, 10)


def running(ranks, timeout, wait):
    """A balance on which each rank has a request that runs."""
    balance = RankBalance(ranks, AttentionBalance(timeout, wait))
    first = [request(row) for row in range(ranks)]
    for one in first:
        balance.receive(one)
    assert [one.rank for one in first] == list(range(ranks))
    for one in first:
        balance.admit(one)
    return balance, first


def steps_until_open(balance):
    for step in range(1000):
        balance.look()
        balance.count_step()
        if balance.is_open:
            return step
    raise AssertionError


def test_requests_wait_until_each_rank_has_one():
    balance, _ = running(2, 1000, 0)
    balance.receive(request(2))
    balance.look()
    assert not balance.is_open
    balance.receive(request(3))
    balance.look()
    assert balance.is_open


@pytest.mark.parametrize("wait", [0, 3])
def test_they_wait_for_others_when_each_rank_has_one(wait):
    balance, _ = running(2, 1000, wait)
    balance.receive(request(2))
    balance.receive(request(3))
    assert steps_until_open(balance) == wait


@pytest.mark.parametrize("timeout", [1, 7])
def test_they_wait_for_a_rank_without_any_up_to_the_limit(timeout):
    """The limit counts from the step of the last one, whether anything waits or not."""
    balance, _ = running(2, timeout, 10)
    balance.receive(request(2))
    assert [steps_until_open(balance) for _ in range(3)] == 3 * [timeout - 1]


def test_nothing_waits_for_others_where_a_rank_computes_nothing():
    balance, first = running(2, 1000, 1000)
    balance.leave(first[1])
    balance.receive(request(2))
    assert steps_until_open(balance) == 0


def test_a_new_request_is_of_the_rank_with_the_fewest():
    balance, first = running(3, 10, 0)
    balance.leave(first[1])
    following = request(3)
    balance.receive(following)
    assert following.rank == 1


@pytest.mark.parametrize(("timeout", "wait", "waiting"), [*product([1, 4, 9], [0, 3], [0, 1, 2])])
def test_repeated_decodes_count_as_steps_one_by_one(timeout, wait, waiting):
    """Steps taken in one event end in the state of as many single ones, up to the step that may admit requests."""
    for before, repeated in product(range(6), range(1, 12)):
        one_by_one, together = (running(2, timeout, wait)[0] for _ in range(2))
        for balance in (one_by_one, together):
            for _ in range(before):
                balance.look()
                balance.count_step()
            for row in range(waiting):
                balance.receive(request(2 + row))
            balance.look()
            balance.count_step()
        limit = together.steps_until_open
        assert (limit is None) == (waiting == 0)
        count = repeated if limit is None else min(repeated, limit - 1)
        for _ in range(count):
            one_by_one.look()
            one_by_one.count_step()
            assert waiting == 0 or not one_by_one.is_open
        if count:
            together.repeat_decodes(count)
        if limit is not None and count == limit - 1:
            together.look()
            assert together.is_open
        assert steps_until_open(together) == steps_until_open(one_by_one)


def test_prompts_come_together_and_first_tokens_later():
    """A closed loop on four ranks: fewer steps with prompts, which hold up decodes, and longer waits."""
    case = chains([[kind_of("k", blocks=4000, budget=4000, seqs=64, prefill_ns=1e5, ranks=4)]])
    load = random_load(1, 200, rate_rps=1.0, prompt=60, output=80)
    how = {"mode": FeedMode.CLOSED_LOOP, "concurrency": 20, "window": Window(0, 100 * SECOND, drain=True)}

    def run(balance):
        engine = replace(INSIDE, attention_balance=balance)
        return simulate(inputs_of(case, load, engine=engine, **how))

    apart, together = run(None), run(AttentionBalance(50, 0))

    def wait_ns(result):
        return float((result.requests.first_token_ns - result.requests.arrival_ns).mean())

    def decoding_ns(result):
        return float((result.requests.finish_ns - result.requests.first_token_ns).mean())

    assert wait_ns(together) > 2 * wait_ns(apart)
    assert decoding_ns(together) < 0.9 * decoding_ns(apart)
    assert together.requests.output_tokens.sum() == apart.requests.output_tokens.sum()
