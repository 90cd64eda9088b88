from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helixsim.datafiles import data_path
from helixsim.domain.request import Request
from helixsim.errors import ConfigError, DataError
from helixsim.workload.info import trace_info
from helixsim.workload.readers.base import ReadLog
from helixsim.workload.readers.registry import FORMATS, detect_format, read_trace
from helixsim.workload.spec import ReadOptions
from helixsim.workload.transforms import rescaled
from helixsim.workload.writers import FORMATS as WRITE_FORMATS
from helixsim.workload.writers import write_trace

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
BURST = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
OWN = "arrival_s,prompt_tokens,output_tokens\n"

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def to_file(text: str, name: str = "trace.csv") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return to_file


def arrivals(path: Path, **options: object) -> list[int]:
    return [request.arrival_ns for request in read_trace(path, **options)]


def test_azure_stamps_of_both_years_keep_every_100_ns(write: Write) -> None:
    first = write(AZURE + "2023-11-16 18:59:59.9799601,1,2\n2023-11-16 19:00:00.0000000,3,4\n2023-11-17 00:00:01,5,6\n")
    assert arrivals(first) == [0, 20_039_900, 18_001_020_039_900]
    later = write(AZURE + "2024-05-12 00:00:00+00:00,1,2\n2024-05-12 00:00:00.003928+00:00,3,4\n", "2024.csv")
    assert arrivals(later) == [0, 3_928_000]


def test_burstgpt_is_read_by_name_and_failures_are_counted(write: Write) -> None:
    sessions = "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    path = write(
        sessions + "5270414,abc,1.5,GPT-4,10,20,30,Conversation log\n"
        "5270414,,,GPT-4,10,0,10,API log\n5270415,,,GPT-4,0,7,7,API log\n5270420,,,GPT-4,11,21,32,API log\n"
    )
    log = ReadLog()
    requests = list(read_trace(path, log=log))
    assert requests == [Request(0, 0, 10, 20, session="abc"), Request(1, 6_000_000_000, 11, 21)]
    assert log.dropped == {"no output tokens": 1, "no prompt tokens": 1}
    assert len(requests) + log.dropped.total() == 4


def test_vllm_results_are_sorted_and_errors_counted(write: Write) -> None:
    result = {
        "start_times": [12.5, 11.5, 13.0],
        "input_lens": [1, 2, 3],
        "output_lens": [4, 5, 6],
        "errors": ["", "", "timeout"],
    }
    path = write(json.dumps(result), "result.json")
    log = ReadLog()
    assert list(read_trace(path, log=log)) == [Request(0, 0, 2, 5), Request(1, 1_000_000_000, 1, 4)]
    assert log.dropped == {"request failed": 1}
    del result["start_times"]
    with pytest.raises(DataError, match="since January 2026"):
        list(read_trace(write(json.dumps(result), "result.json"), times="required"))


def test_sharegpt_lengths_are_estimated_only_when_asked(write: Write) -> None:
    talk = [{"conversations": [{"from": "human", "value": "x" * 40}, {"from": "gpt", "value": "y" * 80}]}]
    talk.append({"conversations": [{"from": "human", "value": "alone"}]})
    path = write(json.dumps(talk), "talk.json")
    with pytest.raises(DataError, match="chars_per_token"):
        list(read_trace(path))
    log = ReadLog()
    assert list(read_trace(path, options=ReadOptions(chars_per_token=4), log=log)) == [Request(0, 0, 10, 20)]
    assert log.dropped == {"fewer than two turns": 1}
    counted = [{"conversations": [], "prompt_tokens": 3, "output_tokens": 9}]
    assert list(read_trace(write(json.dumps(counted), "counted.json"))) == [Request(0, 0, 3, 9)]


def test_aliases_of_other_simulators_are_accepted(write: Write) -> None:
    path = write("arrived_at,num_prefill_tokens,num_decode_tokens\n3.5,10,20\n3.75,11,21\n")
    assert list(read_trace(path)) == [Request(0, 0, 10, 20), Request(1, 250_000_000, 11, 21)]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", AZURE + "2023-11-16 18:17:03.98,4808,10\n2023-11-16 18:17:04.98,48", r"row 3: 2 fields.*has 3"),
        ("a.csv", AZURE + "2023-11-16 18:17:03.98,48x,10\n", r"row 2, column 'ContextTokens': got '48x'"),
        ("a.csv", AZURE + "2023-11-16 18:17:03.98,48,-1\n", r"row 2, column 'GeneratedTokens': got '-1'"),
        ("a.csv", AZURE + "2023-11-16 18:17:03.98,48,1.5\n", r"got '1.5', expected a whole number"),
        ("a.csv", AZURE + "2023-11-16 18.17.03,48,1\n", r"row 2, column 'TIMESTAMP': got '2023-11-16 18.17.03'"),
        ("a.csv", AZURE + "2023-11-16 18:17:03 CET,48,1\n", "expected a time such as"),
        ("a.csv", AZURE, "no request in the file"),
        ("a.csv", AZURE.replace("Generated", "Generatd") + "x,1,2\n", r"no column 'GeneratedTokens'.*did you mean"),
        ("b.csv", BURST + "1,GPT-4,1,nan,1,API log\n", r"column 'Response tokens': got 'nan'"),
        ("b.csv", BURST + "5,GPT-4,1,0,1,API log\n", "no request in the file; 1 rows dropped: no output tokens"),
        ("o.csv", OWN + "0,1,1\n5,1,1\n4.5,1,1\n", r"row 4: time decreases by 500 ms.*convert --sort"),
        ("o.csv", OWN + "nan,1,1\n", r"row 2, column 'arrival_s': got 'nan'"),
        ("o.csv", OWN + "-1,1,1\n", r"got '-1', expected a finite time"),
        ("o.csv", "arrival_s,prompt,completion_tokens\n1,1,1\n", r"unknown trace format.*it has arrival_s, prompt"),
        ("o.csv", "", "the file is empty"),
        ("o.csv", "alpha,beta\n1,2\n", "unknown trace format"),
        ("m.jsonl", '{"timestamp": 0, "input_length": 1, "output_length": 2}\n{"timestamp": 1,', "row 2: not JSON"),
        ("m.jsonl", '{"timestamp": 0, "input_length": 1}\n', r"row 1, column 'output_length': missing"),
        ("m.jsonl", '{"timestamp": NaN, "input_length": 1, "output_length": 2}\n', "got nan"),
        ("m.jsonl", '{"timestamp": 0, "input_length": true, "output_length": 2}\n', "got True"),
        ("o.jsonl", '{"arrival_s": 0, "promt_tokens": 1, "output_tokens": 2}\n', "it has arrival_s, promt_tokens"),
        ("s.json", '[{"conversations": 5}]', r"row 1, column 'conversations'"),
        ("s.json", "[{]", "not JSON"),
    ],
)
def test_faults_name_file_row_and_what_was_got(write: Write, name: str, text: str, message: str) -> None:
    path = write(text, name)
    with pytest.raises(DataError, match=message) as caught:
        list(read_trace(path))
    assert str(caught.value).startswith(str(path))


def test_unreadable_files_are_data_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        list(read_trace(tmp_path / "missing.csv", "csv"))
    (tmp_path / "latin.csv").write_bytes(OWN.encode() + b"0,1,\xff\n")
    with pytest.raises(DataError, match="not UTF-8"):
        list(read_trace(tmp_path / "latin.csv", "csv"))
    (tmp_path / "plain.csv.gz").write_text(OWN)
    with pytest.raises(DataError, match="damaged gzip"):
        list(read_trace(tmp_path / "plain.csv.gz", "csv"))
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress((OWN + "0,1,1\n" * 50).encode())[:-12])
    with pytest.raises(DataError, match="damaged gzip"):
        list(read_trace(tmp_path / "cut.csv.gz", "csv"))
    with pytest.raises(ConfigError, match="did you mean 'azure'"):
        read_trace(tmp_path / "any", "azur")


def test_sorting_keeps_the_order_of_equal_times(write: Write) -> None:
    path = write(OWN + "2,10,1\n1,20,1\n2,30,1\n")
    assert [request.prompt_tokens for request in read_trace(path, sort=True)] == [20, 10, 30]


requests_strategy = st.lists(
    st.tuples(st.integers(0, 10**13), st.integers(1, 10**5), st.integers(1, 10**4)), min_size=1, max_size=20
).map(lambda rows: [Request(i, 1000 * (t - min(rows)[0]), p, o) for i, (t, p, o) in enumerate(sorted(rows))])


@settings(deadline=None, max_examples=25)
@given(requests=requests_strategy, packed=st.booleans())
@pytest.mark.parametrize("name", [name for name in WRITE_FORMATS if name not in ("mooncake", "sharegpt")])
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, name: str, requests: list[Request], packed: bool
) -> None:
    path = tmp_path_factory.mktemp("written") / ("trace.gz" if packed else "trace")
    assert write_trace(path, requests, name) == len(requests)
    assert list(read_trace(path)) == requests
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_mooncake_keeps_milliseconds_and_distinct_blocks(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    write_trace(path, [Request(0, 0, 512, 1), Request(1, 2_999_999, 513, 1)], "mooncake")
    assert arrivals(path) == [0, 2_000_000]
    blocks = [json.loads(line)["hash_ids"] for line in path.read_text().splitlines()]
    assert blocks == [[0], [1, 2]]


def test_nothing_is_left_behind_by_a_failed_write(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no request"):
        write_trace(tmp_path / "empty.csv", [], "csv")
    assert list(tmp_path.iterdir()) == []


SAMPLES = {
    "azure-2023.csv": "azure",
    "azure-2024.csv": "azure",
    "burstgpt.csv": "burstgpt",
    "burstgpt-sessions.csv": "burstgpt",
    "mooncake.jsonl": "mooncake",
    "sharegpt.json": "sharegpt",
    "sample.csv": "csv",
}


@pytest.mark.parametrize(("name", "trace_format"), SAMPLES.items())
def test_shipped_samples_are_recognised_and_sound(name: str, trace_format: str) -> None:
    path = data_path("traces", name)
    options = ReadOptions(chars_per_token=4 if trace_format == "sharegpt" else None)
    assert detect_format(path) == trace_format
    requests = list(read_trace(path, options=options))
    assert [request.id for request in requests] == list(range(len(requests)))
    assert requests[0].arrival_ns == 0
    assert all(a.arrival_ns <= b.arrival_ns for a, b in pairwise(requests))
    info = trace_info(path, options=options)
    assert info.requests == len(requests)
    for lengths in (info.prompt_tokens, info.output_tokens):
        assert 1 <= lengths.p50 <= lengths.p90 <= lengths.p99 <= lengths.max
    assert (info.mean_rate_rps is None) is not FORMATS[trace_format].has_times


def test_info_of_a_hand_made_trace(write: Write) -> None:
    rows = "".join(f"{time},{10 * (time + 1)},{time + 1}\n" for time in (0, 0, 30, 60, 119, 120))
    info = trace_info(write(OWN + rows))
    assert (info.span_s, info.mean_rate_rps) == (120.0, 5 / 120)
    assert (info.per_minute_min, info.per_minute_max) == (2, 3)
    assert info.equal_times_share == pytest.approx(1 / 6)
    assert info.correlation == pytest.approx(1.0)
    assert info.prompt_tokens.mean == pytest.approx(10 * info.output_tokens.mean)


def test_shipped_samples_hold_three_hundred_requests_with_longer_prompts_than_outputs() -> None:
    for name in ("azure-2023.csv", "azure-2024.csv", "burstgpt.csv", "sample.csv", "mooncake.jsonl"):
        info = trace_info(data_path("traces", name))
        assert info.requests == 300
        assert info.prompt_tokens.mean > info.output_tokens.mean > 0


def test_a_trace_is_not_rescaled_beyond_the_range_of_the_clock() -> None:
    two = [Request(0, 0, 1, 1), Request(1, 1_000_000_000, 1, 1)]
    assert [request.arrival_ns for request in rescaled(two, 1e8)] == [0, 10**17]
    for factor in (1e10, 1e300, float("inf")):
        with pytest.raises(DataError, match="is longer than 10 years"):
            list(rescaled(two, factor))
