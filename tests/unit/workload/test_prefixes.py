"""The identity of tokens in traces: read, kept through conversions, scaled, counted."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helixsim.domain.request import Prefix, Request, Window
from helixsim.errors import ConfigError, DataError
from helixsim.workload.feed import make_feed, workload_stats
from helixsim.workload.info import trace_info
from helixsim.workload.readers.base import ReadLog
from helixsim.workload.readers.registry import read_trace
from helixsim.workload.spec import (
    ArrivalsSpec,
    LengthLimits,
    LengthsSpec,
    ReadOptions,
    TraceSpec,
    TrafficScale,
    WorkloadSpec,
)
from helixsim.workload.transforms import limited, rescaled, windowed
from helixsim.workload.writers import write_trace


def mooncake(path: Path, rows: list[tuple[int, object]], gap_ms: int = 1000) -> Path:
    """Write a Mooncake trace of (prompt tokens, hash_ids) rows; None: without the key."""
    entries = [
        {"timestamp": gap_ms * at, "input_length": prompt, "output_length": 5}
        | ({} if ids is None else {"hash_ids": ids})
        for at, (prompt, ids) in enumerate(rows)
    ]
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


ROWS: list[tuple[int, object]] = [(1300, [0, 1, 2]), (1024, [0, 1]), (1024, [0, 3]), (300, None), (900, [0])]


def test_hash_ids_become_segments_of_512_tokens(tmp_path: Path) -> None:
    found = [request.prefix for request in read_trace(mooncake(tmp_path / "m.jsonl", ROWS))]
    assert found[:2] == [Prefix((0, 1, 2), range(512, 1537, 512), 1300), Prefix((0, 1), range(512, 1025, 512), 1024)]
    assert found[3] is None
    assert found[4] == Prefix((0,), range(512, 513, 512), 512)  # whole blocks only


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([0, 1], "2 identifiers, but 1600 prompt tokens are 4 blocks of 512 tokens; another size is --block-size"),
        ([0, 1, 1], "1 is there twice"),
        ([0, 1, -2], "expected a list of whole numbers"),
        ([0, 1, True], "expected a list of whole numbers"),
        ("0 1 2", "expected a list of whole numbers"),
    ],
)
def test_faulty_hash_ids_are_refused_with_their_row(tmp_path: Path, ids: object, message: str) -> None:
    path = mooncake(tmp_path / "m.jsonl", [(512, [0]), (1600, ids)])
    with pytest.raises(DataError, match=rf"row 2, column 'hash_ids': .*{message}"):
        list(read_trace(path))


def test_another_size_of_blocks_can_be_stated(tmp_path: Path) -> None:
    path = mooncake(tmp_path / "m.jsonl", [(100, [4, 5])])
    (request,) = read_trace(path, options=ReadOptions(block_size=64))
    assert request.prefix == Prefix((4, 5), range(64, 129, 64), 100)
    with pytest.raises(ConfigError, match=r"block_size: got 0, expected 1 \.\."):
        list(read_trace(path, options=ReadOptions(block_size=0)))


@pytest.mark.parametrize("name", ["csv", "jsonl", "mooncake"])
def test_prefixes_survive_writing_and_reading(tmp_path: Path, name: str) -> None:
    original = list(read_trace(mooncake(tmp_path / "m.jsonl", ROWS)))
    write_trace(tmp_path / "copy", original, name)
    copy = list(read_trace(tmp_path / "copy"))
    assert [shared(request) for request in copy[:3]] == [shared(request) for request in original[:3]]
    if name != "mooncake":  # which has identifiers for all tokens
        assert [shared(request) for request in copy] == [shared(request) for request in original]


def shared(request: Request) -> list[tuple[int, int]]:
    """Return the segments of a request without what its prefix cuts off."""
    prefix = request.prefix
    if prefix is None:
        return []
    return [(one, min(end, prefix.tokens)) for one, end in zip(prefix.ids, prefix.ends, strict=True)]


@given(st.lists(st.tuples(st.integers(1, 2000), st.integers(0, 1), st.integers(1, 3000)), min_size=1, max_size=8))
def test_blocks_of_a_written_trace_are_equal_where_all_tokens_up_to_their_end_are(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[tuple[int, int, int]]
) -> None:
    requests = [
        Request(number, 0, 700 + more, 1, prefix=Prefix((9, turn), (700, 700 + known), 700 + known))
        for number, (more, turn, known) in enumerate(drawn)
    ]
    path = tmp_path_factory.mktemp("written") / "m.jsonl"
    write_trace(path, requests, "mooncake")
    identity: dict[int, tuple[object, ...]] = {}
    for request, line in zip(requests, path.read_text().splitlines(), strict=True):
        tokens = token_names(request)
        for end, block in enumerate(json.loads(line)["hash_ids"], start=1):
            assert identity.setdefault(block, tokens[: 512 * end]) == tokens[: 512 * end]
    assert len(set(identity.values())) == len(identity)


def token_names(request: Request) -> tuple[object, ...]:
    """Return a name for each token of a prompt, equal where tokens are equal."""
    assert request.prefix is not None
    own = [(request.id, at) for at in range(request.prompt_tokens)]
    known = [*range(700), *((request.prefix.ids[1], at) for at in range(request.prefix.tokens - 700))]
    return (*known, *own[len(known) :])[: request.prompt_tokens]


def test_windows_limits_and_rates_keep_prefixes(tmp_path: Path) -> None:
    requests = list(read_trace(mooncake(tmp_path / "m.jsonl", ROWS)))
    kept = list(rescaled(limited(windowed(requests, 1, None, Counter()), LengthLimits(400), Counter()), 2.0))
    assert [request.prefix for request in kept] == [requests[number].prefix for number in (1, 2, 4)]


def replayed(path: Path, **changes: object) -> WorkloadSpec:
    """Return the load that replays a trace."""
    arrivals, window = ArrivalsSpec("trace"), Window(0, None, True)
    fields = {"lengths": None, "limits": LengthLimits(), **changes}
    return WorkloadSpec(TraceSpec("mooncake", path), arrivals=arrivals, window=window, **fields)  # type: ignore[arg-type]


def test_longer_prompts_have_longer_segments(tmp_path: Path) -> None:
    path = mooncake(tmp_path / "m.jsonl", ROWS)
    spec = replayed(path, scale=TrafficScale(prompt_tokens=1.5))
    first, second, *_ = make_feed(spec, 0, 1).requests
    assert first.prefix == Prefix((0, 1, 2), (768, 1536, 2304), 1950)
    assert second.prefix == Prefix((0, 1), (768, 1536), 1536)


def test_drawn_lengths_have_no_prefixes_and_say_so(tmp_path: Path) -> None:
    path = mooncake(tmp_path / "m.jsonl", ROWS)
    spec = replayed(path, lengths=LengthsSpec("fixed", (("prompt_tokens", 100), ("output_tokens", 10))))
    assert all(request.prefix is None for request in make_feed(spec, 0, 1).requests)
    said = [sentence for sentence in workload_stats(spec, 0).assumptions if "prefixes" in sentence]
    assert said == ["m.jsonl: shared prefixes are not used, because the lengths are not those of the trace"]


def test_turns_of_a_session_extend_the_one_before_where_they_can(tmp_path: Path) -> None:
    path = tmp_path / "chat.csv"
    rows = ["0,100,20,a", "1,50,5,b", "2,150,10,a", "3,90,10,a", "4,70,1,"]
    path.write_text("arrival_s,prompt_tokens,output_tokens,session\n" + "".join(row + "\n" for row in rows))
    log = ReadLog()
    found = [r.prefix for r in read_trace(path, options=ReadOptions(extend_sessions=True), log=log)]
    pairs = [(0, 120), (1, 55), (0, 160), (2, 100)]  # 90 tokens cannot begin with 160
    assert found == [*(Prefix((one,), (end,), end) for one, end in pairs), None]
    assert any("4 requests in 2 sessions, of which 1 are read as the continuation" in note for note in log.notes)
    assert all(request.prefix is None for request in read_trace(path))


@pytest.mark.parametrize("text", ["5", "5:", "5:x", "5:20 6:10", "5:10 5:20", "-5:10", " "])
def test_faulty_segments_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "own.csv"
    path.write_text(f"arrival_s,prompt_tokens,output_tokens,prefix_segments\n0,10,20,{text}\n")
    with pytest.raises(DataError, match="row 2, column 'prefix_segments'"):
        list(read_trace(path))


def test_reusable_tokens_are_counted_to_the_first_that_differs(tmp_path: Path) -> None:
    path = mooncake(tmp_path / "m.jsonl", ROWS)
    assert trace_info(path).reusable_share == (1024 + 512 + 512) / (1300 + 1024 + 1024 + 300 + 900)
    assert trace_info(mooncake(path, [(5, None)])).reusable_share is None
