"""What a log of vLLM's server says about memory and steps: KV cache size, engine arguments, throughput lines.

Lines that are read, of vLLM 0.4 to 0.2x (whatever stands before them, all others are passed over):

- ``GPU KV cache size: 420,905 tokens`` (V1), ``# GPU blocks: 26306, # CPU blocks: 2048`` (V0; ``# cuda blocks`` too)
- ``Chunked prefill is enabled with max_num_batched_tokens=8192``
- arguments of the server, ``gpu_memory_utilization``, ``max_num_batched_tokens``, ``max_num_seqs``, ``block_size``,
  ``tensor_parallel_size``, as ``'name': value`` or ``name=value``
- ``Avg prompt throughput: 0.0 tokens/s, Avg generation throughput: 1055.3 tokens/s, Running: 18 reqs, ...,
  GPU KV cache usage: 95.9%, Prefix cache hit rate: 0.0%``, for each ``Engine 000:``
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from helixsim.errors import DataError
from helixsim.hardware.step_rows import StepRow, decoding, prompts

BLOCK_TOKENS = 16
"""Tokens of a KV block unless the log states it: vLLM's default."""

MOST_CHANGE = 0.2
"""Windows whose number of running sequences changes by more than this share (and by more than one) are left out."""

MOST_HIT_RATE = 0.01
"""Share of cached prompt tokens from which windows with prompts are left out: the log counts them as computed."""

MOST_USAGE = 0.98
"""Use of the KV cache from which requests are preempted and computed again, which the log does not count."""

WINDOW_ERROR = 0.1
"""Relative error expected of a window: numbers of sequences and their contexts are those at its ends."""

_NUMBER = r"([\d,]+(?:\.\d+)?)"
_CACHE = re.compile(rf"GPU KV cache size: {_NUMBER} tokens")
_BLOCKS = re.compile(rf"# (?:GPU|cuda) blocks: {_NUMBER}")
_ARGUMENT = re.compile(
    r"\b(gpu_memory_utilization|max_num_batched_tokens|max_num_seqs|block_size|tensor_parallel_size)'?\s*[=:]\s*"
    r"(\d+(?:\.\d+)?)"
)
_WINDOW = re.compile(
    rf"(?:Engine (\d+): )?Avg prompt throughput: {_NUMBER} tokens/s, Avg generation throughput: {_NUMBER} tokens/s, "
    rf"Running: {_NUMBER} reqs(?:.*?(?:Waiting|Pending): {_NUMBER} reqs)?.*?GPU KV cache usage: {_NUMBER}%"
    rf"(?:.*?[Pp]refix cache hit rate: (?:GPU: )?{_NUMBER}%)?"
)
_TIME = re.compile(r"\b(?:(\d{4})-)?(\d\d)-(\d\d)[ T](\d\d):(\d\d):(\d\d)(?:[.,](\d{1,6}))?")
_SPECULATES = re.compile(r"SpecDecoding metrics|Speculative metrics|speculative_config=\{|SpeculativeConfig\(")


@dataclass(frozen=True, slots=True)
class Window:
    """One throughput line: means since the one before, and numbers at its time.

    ``time_s`` is its time [s] since the year 2000, in which a line without a year is; None: it has none.
    """

    engine: str
    prompt_tokens_per_s: float
    generated_tokens_per_s: float
    running: float
    kv_usage: float
    hit_rate: float
    waiting: float = 0.0
    time_s: float | None = None


@dataclass
class VllmLog:
    """What a log says; None or empty where it does not.

    Parameters
    ----------
    kv_tokens
        Tokens of the KV cache.
    arguments
        Engine arguments by name.
    """

    path: Path
    kv_tokens: int | None = None
    arguments: dict[str, float] = field(default_factory=dict)
    windows: list[Window] = field(default_factory=list)


def is_log(path: Path) -> bool:
    """Return whether a file has a line that is read."""
    return any(_CACHE.search(line) or _BLOCKS.search(line) or _WINDOW.search(line) for line in _lines(path))


def read_log(path: Path) -> VllmLog:
    """Return what a log says.

    Raises
    ------
    DataError
        If it cannot be read, holds none of the lines, sizes of different servers, or speculative decoding, whose
        throughput does not tell the number of steps.
    """
    log = VllmLog(path)
    for number, line in enumerate(_lines(path), start=1):
        where = f"{path}: line {number}"
        if _SPECULATES.search(line):
            raise DataError(f"{where}: speculative decoding: its throughput does not tell how many steps there were")
        for name, value in _ARGUMENT.findall(line):
            log.arguments.setdefault(name, float(value))
        tokens = _kv_tokens(line, log.arguments)
        if tokens is not None:
            if log.kv_tokens not in (None, tokens):
                raise DataError(
                    f"{where}: a KV cache of {tokens} tokens after one of {log.kv_tokens}: one server a log"
                )
            log.kv_tokens = tokens
        found = _WINDOW.search(line)
        if found is not None:
            engine, *numbers = found.groups()
            prompt, generated, running, waiting, usage, hits = (_value(text) for text in numbers)
            share, hit_rate = usage / 100, hits / 100
            log.windows.append(
                Window(engine or "", prompt, generated, running, share, hit_rate, waiting, _time_s(line))
            )
    if log.kv_tokens is None and not log.windows:
        raise DataError(
            f"{path}: no line of a vLLM log with 'GPU KV cache size: N tokens', '# GPU blocks: N' or "
            f"'Avg prompt throughput: ...'"
        )
    return log


def steps_of(log: VllmLog, kv_tokens: int, most_tokens: float) -> tuple[list[StepRow], Mapping[str, int]]:
    """Return a row for each window in which the engine was busy throughout, and why others are left out, with counts.

    In a second, an engine with ``running`` sequences makes ``generated / running`` steps; ``prompt / chunk`` of them
    hold a chunk of prompts, of a prompt's length or of ``most_tokens`` tokens. Prompts are taken to be as long as the
    mean context of the running sequences.

    Parameters
    ----------
    kv_tokens
        Tokens of the KV cache, of which ``kv_usage`` is a share.
    most_tokens
        Most prompt tokens of a step.
    """
    before: dict[str, Window] = {}
    rows: list[StepRow] = []
    left_out: Counter[str] = Counter()
    for window in log.windows:
        last = before.get(window.engine)
        before[window.engine] = window
        reason = _reason(last, window)
        if last is None or reason:
            left_out[reason or "first line of an engine"] += 1
            continue
        running = (last.running + window.running) / 2
        context = max((last.kv_usage + window.kv_usage) / 2 * kv_tokens / running, 1.0)
        steps = window.generated_tokens_per_s / running
        chunk = min(context, most_tokens)
        chunks = window.prompt_tokens_per_s / chunk
        if chunks > steps:
            left_out["more chunks of prompts than steps"] += 1
            continue
        alone, beside = decoding(running, context), decoding(running, context).joined(prompts(chunk, 1))
        parts = ((steps - chunks, alone), (chunks, beside)) if chunks else ((steps, alone),)
        rows.append(StepRow("serving", parts, 1.0, WINDOW_ERROR))
    return rows, left_out


def _reason(last: Window | None, window: Window) -> str:
    if last is None:
        return "first line of an engine"
    if not window.running or not last.running or not window.generated_tokens_per_s:
        return "idle at the beginning or the end"
    if not window.kv_usage or not last.kv_usage:
        return "KV cache usage of 0 %"
    if max(window.kv_usage, last.kv_usage) > MOST_USAGE:
        return f"KV cache used by more than {MOST_USAGE:.0%}: requests may be computed again"
    change = abs(window.running - last.running)
    if change > max(1.0, MOST_CHANGE * max(window.running, last.running)):
        return f"running sequences changed by more than {MOST_CHANGE:.0%}"
    if window.prompt_tokens_per_s and window.hit_rate > MOST_HIT_RATE:
        return "prompts from the prefix cache"
    return ""


def _kv_tokens(line: str, arguments: Mapping[str, float]) -> int | None:
    found = _CACHE.search(line)
    if found is not None:
        return round(_value(found.group(1)))
    found = _BLOCKS.search(line)
    return None if found is None else round(_value(found.group(1)) * arguments.get("block_size", BLOCK_TOKENS))


def _time_s(line: str) -> float | None:
    """Return the time at the beginning of a line [s], None if there is none; logs of vLLM omit the year."""
    found = _TIME.search(line)
    if found is None:
        return None
    year, month, day, hour, minute, second, fraction = found.groups()
    try:
        stamp = datetime(int(year or 2000), int(month), int(day), int(hour), int(minute), int(second))
    except ValueError:
        return None
    return (stamp - datetime(2000, 1, 1)).total_seconds() + float(f"0.{fraction or 0}")


def _value(text: str | None) -> float:
    return float(text.replace(",", "")) if text else 0.0


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            yield from file
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
