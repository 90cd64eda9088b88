"""Logs of vLLM: lines of both generations, windows as steps, and what is left out with its reason."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from helixsim.errors import DataError
from helixsim.hardware.vllm_log import VllmLog, Window, is_log, read_log, steps_of

V1 = """\
(APIServer pid=7) INFO 05-19 10:12:01 [utils.py:253] non-default args: {'model': 'some/model', 'max_num_seqs': 64}
INFO 05-19 10:12:30 [scheduler.py:207] Chunked prefill is enabled with max_num_batched_tokens=4096.
INFO 05-19 10:12:31 [core.py:93] Initializing a V1 LLM engine (v0.19.0) with config: tensor_parallel_size=2, seed=0
(EngineCore pid=9) INFO 05-19 10:13:00 [kv_cache_utils.py:1087] GPU KV cache size: 420,905 tokens
(EngineCore pid=9) INFO 05-19 10:13:00 [kv_cache_utils.py:1091] Maximum concurrency for 8,192 tokens per request: 51.38x
"""
LINE = (
    "(APIServer pid=7) INFO 05-19 10:13:{second:02d} [loggers.py:271] Engine {engine:03d}: Avg prompt throughput: "
    "{prompt} tokens/s, Avg generation throughput: {generated} tokens/s, Running: {running} reqs, Waiting: 0 reqs, "
    "GPU KV cache usage: {usage}%, Prefix cache hit rate: {hits}%\n"
)
V0 = """\
INFO 07-08 07:17:00 llm_engine.py:161] Initializing an LLM engine (v0.4.3) with config: block_size=32
INFO 07-08 07:17:20 gpu_executor.py:83] # GPU blocks: 1,952, # CPU blocks: 2048
INFO 07-08 07:17:34 metrics.py:334] Avg prompt throughput: 6501.4 tokens/s, Avg generation throughput: 69.1 tokens/s, \
Running: 4 reqs, Swapped: 0 reqs, Pending: 0 reqs, GPU KV cache usage: 15.6%, CPU KV cache usage: 0.0%.
"""


def line(**changes: float) -> str:
    figures = {"second": 0, "engine": 0, "prompt": 0, "generated": 1000.0, "running": 20, "usage": 40.0, "hits": 0.0}
    return LINE.format(**figures | changes)


def _log(tmp_path: Path, text: str) -> VllmLog:
    path = tmp_path / "server.log"
    path.write_text(text)
    return read_log(path)


def test_sizes_arguments_and_windows_of_v1(tmp_path: Path) -> None:
    log = _log(tmp_path, V1 + line(prompt=512.5, usage=62.5, hits=0.5) + "unrelated\n" + line(engine=1))
    assert log.kv_tokens == 420_905
    assert log.arguments == {"max_num_seqs": 64, "max_num_batched_tokens": 4096, "tensor_parallel_size": 2}
    assert replace(log.windows[0], time_s=None) == Window("000", 512.5, 1000.0, 20, 0.625, 0.005)
    assert log.windows[1].engine == "001"


def test_lines_tell_their_time_and_the_waiting_requests(tmp_path: Path) -> None:
    text = line(second=5).replace("Waiting: 0", "Waiting: 17") + line(second=15)
    first, second = _log(tmp_path, text).windows
    assert (first.waiting, second.waiting) == (17, 0)
    assert first.time_s is not None
    assert second.time_s == first.time_s + 10
    (bare,) = _log(tmp_path, line().replace("05-19 10:13:00", "")).windows
    assert bare.time_s is None


def test_blocks_and_windows_of_v0(tmp_path: Path) -> None:
    log = _log(tmp_path, V0)
    assert log.kv_tokens == 1952 * 32
    assert [replace(one, time_s=None) for one in log.windows] == [Window("", 6501.4, 69.1, 4, 0.156, 0.0)]
    assert _log(tmp_path, V0.replace("block_size=32", "").replace("GPU blocks", "cuda blocks")).kv_tokens == 1952 * 16


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing of the kind\n", "no line of a vLLM log"),
        ("", "no line of a vLLM log"),
        (V1 + "GPU KV cache size: 1,000 tokens\n", "1000 tokens after one of 420905"),
        (V1 + "SpecDecoding metrics: Mean acceptance length: 2.1\n", "line 6: speculative decoding"),
    ],
)
def test_faults(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        _log(tmp_path, text)
    with pytest.raises(DataError, match="cannot be read"):
        read_log(tmp_path / "absent.log")


def test_a_window_is_as_many_steps_as_its_tokens_need(tmp_path: Path) -> None:
    log = _log(tmp_path, line() + line(prompt=2000, running=22, usage=44))
    (row,), left_out = steps_of(log, 10_000, 2048)
    assert left_out == {"first line of an engine": 1}
    context = 0.42 * 10_000 / 21
    (alone, decode), (chunks, mixed) = row.parts
    assert decode.decode_context == pytest.approx(21 * context)
    assert chunks * mixed.prefill_tokens == pytest.approx(2000)
    assert alone * decode.decode_seqs + chunks * mixed.decode_seqs == pytest.approx(1000)
    assert mixed.prefill_tokens == pytest.approx(context)
    assert row.seconds == 1.0
    (row,), _ = steps_of(log, 10_000, 100)
    assert row.parts[1][1].prefill_tokens == 100


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"running": 0, "generated": 0.0}, "idle"),
        ({"running": 30}, "changed by more than 20%"),
        ({"usage": 99.0}, "used by more than 98%"),
        ({"usage": 0.0}, "usage of 0 %"),
        ({"prompt": 100, "hits": 30.0}, "prefix cache"),
        ({"prompt": 200_000}, "more chunks of prompts than steps"),
    ],
)
def test_windows_that_tell_nothing_are_counted_with_the_reason(tmp_path: Path, changes, reason: str) -> None:
    rows, left_out = steps_of(_log(tmp_path, line() + line(**changes)), 100_000, 2048)
    assert not rows
    assert any(reason in said for said in left_out)
    assert sum(left_out.values()) == 2


def test_engines_have_windows_of_their_own(tmp_path: Path) -> None:
    rows, left_out = steps_of(_log(tmp_path, line() + line(engine=1, running=90) + line()), 100_000, 2048)
    assert (len(rows), dict(left_out)) == (1, {"first line of an engine": 2})


def test_a_log_is_known_by_its_lines(tmp_path: Path) -> None:
    for text, expected in ((V1, True), (V0, True), (line(), True), ("phase,time_ms\n", False), ("{}", False)):
        (tmp_path / "server.log").write_text(text)
        assert is_log(tmp_path / "server.log") is expected
