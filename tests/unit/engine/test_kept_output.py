"""SGLang's rule of admission: a share of the output that running sequences may still generate is kept free."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from helixsim.domain.engine import EngineSpec
from helixsim.domain.request import Request
from helixsim.engine.rules import Rules
from helixsim.engine.scheduler import Scheduler
from helixsim.engine.sequences import Sequence

PROMPT, OUTPUT, BLOCKS = 40, 60, 200
WHOLE = Rules(budget=1000, max_sequences=10, is_mixed=False, expected_output_tokens=OUTPUT)


def running(rules, **changes):
    """Return how many of four requests with the same prompt run after the first step."""
    scheduler = Scheduler(SimpleNamespace(number=0), BLOCKS, 1, replace(rules, **changes))
    for row in range(4):
        scheduler.enqueue(Sequence(Request(row, 0, PROMPT, OUTPUT), 0, row, OUTPUT))
    scheduler.form(0)
    return len(scheduler.running)


def test_the_whole_output_of_a_request_that_enters_and_a_share_of_that_of_others():
    assert running(WHOLE) == 2  # 2 x (40 + 60) = 200
    assert running(WHOLE, kept_output_share=0.0) == 3  # 2 x 40 + 100 <= 200 < 3 x 40 + 100
    # The third finds 2 x 40 in use and 0.2 x 120 kept: 100 more are too much.
    assert running(WHOLE, kept_output_share=0.2) == 2
    assert running(WHOLE, kept_output_share=0.2, expected_output_tokens=40) == 3
    assert running(WHOLE, kept_output_share=1 - 1e-9) == 2


def test_the_share_is_that_of_a_server_under_load():
    assert EngineSpec().kept_output_share == 1.0
    usual, twice, most = (EngineSpec(schedule_conservativeness=factor).kept_output_share for factor in (1.0, 1.2, 9.0))
    assert usual == pytest.approx(0.7 * 0.14)
    assert twice == pytest.approx(1.2 * usual)
    assert most == 0.14
    assert EngineSpec(schedule_conservativeness=0.0).kept_output_share == 0.0
