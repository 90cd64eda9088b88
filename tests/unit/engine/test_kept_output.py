"""SGLang's rule of admission: a share of the output that running sequences may still generate is kept free."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from helixsim.domain.engine import EngineSpec, NewTokenRatio
from helixsim.domain.request import Request
from helixsim.engine.rules import Rules
from helixsim.engine.scheduler import Scheduler
from helixsim.engine.sequences import Decodes, Sequence

PROMPT, OUTPUT, BLOCKS = 40, 60, 200
WHOLE = Rules(budget=1000, max_sequences=10, is_mixed=False, expected_output_tokens=OUTPUT)


def running(rules, **changes):
    """Return how many of four requests with the same prompt run after the first step."""
    scheduler = Scheduler(SimpleNamespace(number=0), BLOCKS, 1, replace(rules, **changes))
    for row in range(4):
        scheduler.receive(Sequence(Request(row, 0, PROMPT, OUTPUT), 0, row, OUTPUT))
    scheduler.form(0)
    return len(scheduler.running)


def always(share):
    return {"new_token_ratio": NewTokenRatio(share, share)}


def test_the_whole_output_of_a_request_that_enters_and_a_share_of_that_of_others():
    assert running(WHOLE) == 2  # 2 x (40 + 60) = 200
    assert running(WHOLE, **always(0.0)) == 3  # 2 x 40 + 100 <= 200 < 3 x 40 + 100
    # The third finds 2 x 40 in use and 0.2 x 120 kept: 100 more are too much.
    assert running(WHOLE, **always(0.2)) == 2
    assert running(WHOLE, **always(0.2), expected_output_tokens=40) == 3
    assert running(WHOLE, **always(1 - 1e-9)) == 2


def test_the_share_falls_in_600_steps_to_that_of_a_server_under_load():
    assert EngineSpec().new_token_ratio is None
    usual, twice, most = (EngineSpec(schedule_conservativeness=factor).new_token_ratio for factor in (1.0, 1.2, 9.0))
    assert (usual.first, usual.least) == pytest.approx((0.7, 0.098))
    assert (twice.first, twice.least) == pytest.approx((0.84, 1.2 * 0.098))
    assert (most.first, most.least) == (1.0, 0.14)
    assert EngineSpec(schedule_conservativeness=0.0).new_token_ratio == NewTokenRatio(0.0, 0.0)
    shares = [usual.after(usual.first, steps) for steps in range(700)]
    assert shares[0] == usual.first
    assert -np.diff(shares[:600]) == pytest.approx((0.7 - 0.098) / 600)
    assert shares[599] > usual.least
    assert set(shares[601:]) == {usual.least}


def test_decode_steps_alone_let_the_share_fall_and_rest_lets_it_begin_anew():
    law = EngineSpec(schedule_conservativeness=1.0).new_token_ratio
    scheduler = Scheduler(SimpleNamespace(number=0), BLOCKS, 1, replace(WHOLE, new_token_ratio=law))
    (sequence,) = sequences(scheduler, 1)
    assert scheduler.form(0).chunks  # a step of prompts
    assert scheduler.reserve.share == law.first
    decoding(scheduler, [sequence])
    for steps in (1, 2, 3):
        plan = scheduler.form(0)
        assert not plan.chunks
        plan.decodes.take_steps(1)
        scheduler.ready = plan.decodes
        assert scheduler.reserve.share == law.after(law.first, steps)
    scheduler.ready = None
    plan.decodes.leave(sequence)
    scheduler.leave(sequence, sequence.context_tokens - 1, 0)
    assert scheduler.form(0) is None
    assert scheduler.reserve.share == law.first


def test_a_preemption_lets_the_share_be_estimated_anew():
    law = EngineSpec(schedule_conservativeness=1.0).new_token_ratio
    rules = replace(WHOLE, new_token_ratio=law, expected_output_tokens=10)
    scheduler = Scheduler(SimpleNamespace(number=0), 3 * (PROMPT + 4), 1, rules)
    first, second, third = sequences(scheduler, 3)
    scheduler.form(0)
    assert len(scheduler.running) == 2  # 2 x 40 + 0.7 x 20 + 50 are more than 132
    scheduler.reserve.decode(10_000)
    scheduler.form(0)
    assert len(scheduler.running) == 3  # 2 x 40 + 0.098 x 20 + 40 + 10 are not
    decoding(scheduler, [first, second, third])
    while not scheduler.preemptions:
        plan = scheduler.form(0)
        plan.decodes.take_steps(1)
        scheduler.ready = plan.decodes
    assert list(scheduler.waiting) == [third]
    generated = first.generated + second.generated
    assert 0 < generated == 2 * first.generated
    assert scheduler.reserve.share == pytest.approx(min(1.0, (generated + 2 * 20) / (2 * 10 + 1))) == 1.0
    assert NewTokenRatio.retracted(generated=100, sequences=5, expected=999) == pytest.approx(0.2)


def sequences(scheduler, count):
    """Let so many requests wait."""
    found = [Sequence(Request(row, 0, PROMPT, OUTPUT), 0, row, OUTPUT) for row in range(count)]
    for sequence in found:
        scheduler.receive(sequence)
    return found


def decoding(scheduler, members):
    """Let prompts that have been computed go over to decoding, as a replica does when their step has ended."""
    scheduler.ready = Decodes(1)
    for sequence in members:
        sequence.in_flight, sequence.generated = 0, 1
        scheduler.ready.join(sequence, 0)
