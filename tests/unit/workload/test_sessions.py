"""Sessions and system prompts of generated loads."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path

import pytest

from helixsim.domain.request import Request, Window
from helixsim.errors import ConfigError
from helixsim.units import NS_PER_S
from helixsim.workload.feed import longest_prompt, make_feed, workload_stats
from helixsim.workload.spec import (
    ArrivalsSpec,
    LengthLimits,
    LengthsSpec,
    SessionsSpec,
    SystemPromptsSpec,
    TraceSpec,
    TrafficScale,
    WorkloadSpec,
)
from helixsim.workload.writers import write_trace

PLAIN = WorkloadSpec(
    None,
    LengthsSpec("azure-conversation"),
    ArrivalsSpec("poisson", rate_rps=5.0, num_requests=3000),
    LengthLimits(max_prompt_tokens=8000),
    Window(0, None, drain=True),
)
CHAT = replace(PLAIN, sessions=SessionsSpec(4.0, 20.0), system_prompts=SystemPromptsSpec(5, 700, 1.0))


def requests(spec: WorkloadSpec, seed: int = 0) -> list[Request]:
    return list(make_feed(spec, seed, 1).requests)


def turns(found: list[Request]) -> dict[str, list[Request]]:
    """The requests of each session, in order."""
    sessions = defaultdict(list)
    for request in found:
        assert request.session is not None
        sessions[request.session].append(request)
    return sessions


def test_arrival_times_outputs_and_messages_are_those_without_sessions() -> None:
    limits = LengthLimits(max_prompt_tokens=8000 - 700)
    plain, chat = requests(replace(PLAIN, limits=limits)), requests(CHAT)
    for name in ("id", "arrival_ns", "output_tokens"):
        assert [getattr(one, name) for one in plain] == [getattr(one, name) for one in chat]
    messages = {one.id: one.prompt_tokens for one in plain}
    for session in turns(chat).values():
        before = 700
        for turn in session:
            assert turn.prompt_tokens == before + messages[turn.id]
            before = turn.prompt_tokens + turn.output_tokens


def test_each_turn_extends_the_one_before_after_its_think_time() -> None:
    constant = replace(CHAT.sessions, think_time_distribution="constant")  # type: ignore[type-var]
    for session in turns(requests(replace(CHAT, sessions=constant))).values():
        prompts = {turn.prefix.ids[0] for turn in session if turn.prefix}
        identifiers = {turn.prefix.ids[1] for turn in session if turn.prefix}
        assert (len(prompts), len(identifiers)) == (1, 1)
        for turn in session:
            assert turn.prefix is not None
            assert turn.prefix.tokens == turn.prefix.ends[1] == turn.prompt_tokens + turn.output_tokens
            assert turn.prefix.ends[0] == 700
        assert all(second.arrival_ns - first.arrival_ns >= 20 * NS_PER_S for first, second in pairwise(session))


def test_identifiers_of_system_prompts_and_sessions_differ() -> None:
    found = requests(CHAT)
    prompts = {one.prefix.ids[0] for one in found if one.prefix}
    sessions = {one.prefix.ids[1] for one in found if one.prefix}
    assert prompts == set(range(5))
    assert min(sessions) == 5
    assert len(sessions) == len(turns(found))


def test_turns_and_open_sessions_have_the_stated_means() -> None:
    spec = replace(CHAT, arrivals=replace(CHAT.arrivals, num_requests=30_000), limits=LengthLimits())
    sessions = turns(requests(spec))
    last_ns = max(session[-1].arrival_ns for session in sessions.values())
    ended = [session for session in sessions.values() if session[0].arrival_ns < last_ns - 2000 * NS_PER_S]
    assert sum(map(len, ended)) / len(ended) == pytest.approx(4.0, rel=0.05)
    middle_ns = last_ns // 2
    is_open = [s[0].arrival_ns <= middle_ns < s[-1].arrival_ns for s in sessions.values()]
    assert sum(is_open) == pytest.approx(5.0 * 20.0, rel=0.3)
    four = replace(spec, sessions=SessionsSpec(4.0, 20.0, turns_distribution="constant"))
    assert max(map(len, turns(requests(four)).values())) == 4


def test_system_prompts_are_used_by_zipfs_law() -> None:
    spec = replace(PLAIN, system_prompts=SystemPromptsSpec(3, 100, 1.0))
    found = requests(spec)
    used = Counter(one.prefix.ids[0] for one in found if one.prefix)
    assert [used[k] / len(found) for k in range(3)] == pytest.approx([6 / 11, 3 / 11, 2 / 11], abs=0.03)
    assert {(one.prefix.ends, one.prefix.tokens, one.session) for one in found if one.prefix} == {((100,), 100, None)}


def test_a_session_ends_where_its_prompt_would_exceed_the_limit() -> None:
    endless = replace(CHAT, sessions=SessionsSpec(1000.0, 1.0))
    found = requests(endless)
    assert max(one.prompt_tokens for one in found) <= 8000
    assert max(map(len, turns(found).values())) > 3


def test_factors_apply_to_system_prompts_messages_and_limits() -> None:
    one = replace(CHAT, scale=TrafficScale(prompt_tokens=0.5))
    found = requests(one)
    assert {request.prefix.ends[0] for request in found if request.prefix} == {350}
    assert max(request.prompt_tokens for request in found) <= 4000


def test_statistics_are_those_of_the_requests() -> None:
    found, stats = requests(CHAT, 3), workload_stats(CHAT, 3)
    assert stats.mean_prompt_tokens == pytest.approx(sum(one.prompt_tokens for one in found) / len(found))
    assert stats.mean_output_tokens == pytest.approx(sum(one.output_tokens for one in found) / len(found))
    assert longest_prompt(CHAT, 3) == max(one.prompt_tokens for one in found)
    assert (stats.offered_rps, stats.num_requests) == (5.0, 3000)


def test_a_seed_gives_the_same_sessions_and_another_others() -> None:
    assert requests(CHAT, 1) == requests(CHAT, 1)
    assert [one.prefix for one in requests(CHAT, 1)] != [one.prefix for one in requests(CHAT, 2)]


def test_system_prompts_work_without_arrival_times() -> None:
    spec = replace(PLAIN, arrivals=ArrivalsSpec("saturate"), system_prompts=SystemPromptsSpec(1, 50))
    found = list(islice(make_feed(spec, 0, 1).requests, 100))
    assert all(one.prefix and one.prefix.ids == (0,) and one.prompt_tokens > 50 for one in found)


def test_recorded_times_can_carry_sessions_if_lengths_are_drawn(tmp_path: Path) -> None:
    write_trace(tmp_path / "t.csv", requests(PLAIN), "csv")
    replayed = replace(CHAT, trace=TraceSpec("csv", tmp_path / "t.csv"), arrivals=ArrivalsSpec("trace"))
    assert [one.prefix for one in requests(replayed)] == [one.prefix for one in requests(CHAT)]
    with pytest.raises(ConfigError, match=r"sessions: the prompts of a trace are those that it records"):
        make_feed(replace(replayed, lengths=None), 0, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arrivals": ArrivalsSpec("closed_loop", concurrency=3)}, "sessions need arrival times"),
        ({"arrivals": ArrivalsSpec("saturate")}, "sessions need arrival times"),
        ({"limits": LengthLimits(max_prompt_tokens=700)}, "700 tokens leave none for a message"),
    ],
)
def test_loads_without_room_for_sessions_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_feed(replace(CHAT, **changes), 0, 1)  # type: ignore[arg-type]
