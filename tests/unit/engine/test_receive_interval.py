"""``scheduler_recv_interval``: how long a request waits for the scheduler to look for new ones."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from replica_cases import chains, kind_of
from simulating import SECOND, inputs_of, random_load

from helixsim.domain.engine import EngineSpec
from helixsim.domain.request import FeedMode, Request, Window
from helixsim.engine.rules import Rules
from helixsim.engine.scheduler import Scheduler
from helixsim.engine.sequences import Sequence
from helixsim.engine.simulate import simulate

INSIDE = EngineSpec("inside", loops_inside=True, copies_activations=False, chunks_prompts=True, admission="prompt")


def sequence(row, output=100):
    return Sequence(Request(row, 0, 4, output), 0, row, output)


def steps_until_admission(interval, after):
    """Return the decode steps that a request waits which comes after so many decode steps behind a prompt."""
    scheduler = Scheduler(SimpleNamespace(number=0), 1000, 1, Rules(100, 10, receive_interval=interval))
    first, second = sequence(0), sequence(1)
    scheduler.receive(first)
    plan = scheduler.form(0)
    assert plan is not None
    assert plan.ending == [first]
    plan.decodes.join(first, 0)
    for step in range(1000):
        scheduler.ready = plan.decodes
        if step == after:
            scheduler.receive(second)
        plan = scheduler.form(0)
        assert plan is not None
        if plan.chunks:
            return step - after
    raise AssertionError


@pytest.mark.parametrize("interval", [1, 2, 10])
def test_a_request_waits_for_the_next_look(interval):
    """The scheduler looks behind the prompt, and again after ``interval`` decode steps."""
    waits = [steps_until_admission(interval, after) for after in range(2 * interval)]
    assert waits == 2 * [0, *range(interval - 1, 0, -1)]


def test_an_idle_scheduler_looks_at_once():
    scheduler = Scheduler(SimpleNamespace(number=0), 1000, 1, Rules(100, 10, receive_interval=30))
    scheduler.receive(sequence(0))
    assert len(scheduler.queue) == 1
    plan = scheduler.form(0)
    assert plan is not None
    assert len(plan.chunks) == 1
    assert len(scheduler.queue) == 0


def test_first_tokens_come_later_and_prompts_together():
    """A closed loop: half an interval of steps more until the first token, and fewer steps with prompts."""
    case = chains([[kind_of("k", blocks=4000, budget=4000, seqs=64, prefill_ns=2e4)]])
    load = random_load(1, 200, rate_rps=1.0, prompt=60, output=80)
    how = {"mode": FeedMode.CLOSED_LOOP, "concurrency": 20, "window": Window(0, 100 * SECOND, drain=True)}

    def run(interval):
        engine = replace(INSIDE, scheduler_recv_interval=interval)
        return simulate(inputs_of(case, load, engine=engine, **how))

    often, seldom = run(1), run(20)

    def wait_ns(result):
        return float((result.requests.first_token_ns - result.requests.arrival_ns).mean())

    assert wait_ns(seldom) > 3 * wait_ns(often)
    assert seldom.requests.output_tokens.sum() == often.requests.output_tokens.sum()
