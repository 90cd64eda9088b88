"""Writers of published trace formats, for replay of a load by other tools."""

from __future__ import annotations

import csv
import gzip
import io
import json
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from helixsim.domain.request import Request
from helixsim.errors import ConfigError, DataError, unknown_name
from helixsim.units import NS_PER_MS, NS_PER_S
from helixsim.workload.readers import azure
from helixsim.workload.readers.files import zst
from helixsim.workload.readers.mooncake import BLOCK_TOKENS
from helixsim.writing import new_file

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
"""Time 0 in formats with calendar times."""

_FILLER = "one two six ten "
"""Filler text of exactly 4 characters per token."""


@dataclass(frozen=True, slots=True)
class WriteFormat:
    """An output format; ``loses`` names the data it cannot store."""

    summary: str
    write: Callable[[Iterable[Request], TextIO], None]
    loses: str = ""


def write_trace(path: Path, requests: Iterable[Request], trace_format: str) -> int:
    """Write a trace, compressed if the name ends in ``.gz`` or ``.zst``, and return the number of requests.

    The file is written atomically.

    Raises
    ------
    ConfigError
        If the format is unknown.
    DataError
        If the file cannot be written, or there are no requests.
    """
    if trace_format not in FORMATS:
        raise ConfigError(unknown_name("output format", trace_format, FORMATS))
    written = 0

    def counted() -> Iterator[Request]:
        nonlocal written
        for request in requests:
            written += 1
            yield request

    try:
        with new_file(path, devices=True) as raw:
            with _text(raw, path) as handle:
                FORMATS[trace_format].write(counted(), handle)
            if written == 0:
                raise DataError(f"{path}: not written, there are no requests")
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error})") from None
    return written


@contextmanager
def _text(raw: BinaryIO, path: Path) -> Iterator[TextIO]:
    """Yield a text file over a binary one, compressed according to its suffix."""
    binary: Any = raw
    if path.suffix == ".gz":
        # No name or time in the gzip header, so that equal requests give equal bytes.
        binary = gzip.GzipFile("", "wb", fileobj=raw, mtime=0)
    elif path.suffix == ".zst":
        binary = zst(path).open(raw, "wb")
    with io.TextIOWrapper(binary, encoding="utf-8", newline="") as handle:
        yield handle


def _azure_2023(requests: Iterable[Request], handle: TextIO) -> None:
    write_row = _csv(handle, azure.COLUMNS)
    for request in requests:
        stamp, ticks = _stamp(request.arrival_ns)
        write_row((f"{stamp}.{ticks:07d}", request.prompt_tokens, request.output_tokens))


def _azure_2024(requests: Iterable[Request], handle: TextIO) -> None:
    write_row = _csv(handle, azure.COLUMNS)
    for request in requests:
        stamp, ticks = _stamp(request.arrival_ns)
        fraction = f".{ticks // 10:06d}" if ticks >= 10 else ""
        write_row((f"{stamp}{fraction}+00:00", request.prompt_tokens, request.output_tokens))


def _stamp(arrival_ns: int) -> tuple[str, int]:
    """Return the whole second as text, and the rest in ticks of 100 ns."""
    seconds, rest_ns = divmod(arrival_ns, NS_PER_S)
    return f"{_EPOCH + timedelta(seconds=seconds):%Y-%m-%d %H:%M:%S}", rest_ns // 100


def _burstgpt(requests: Iterable[Request], handle: TextIO) -> None:
    write_row = _csv(handle, ("Timestamp", "Model", "Request tokens", "Response tokens", "Total tokens", "Log Type"))
    for request in requests:
        prompt, output = request.prompt_tokens, request.output_tokens
        write_row((_seconds(request.arrival_ns), "GPT-4", prompt, output, prompt + output, "API log"))


def _burstgpt_sessions(requests: Iterable[Request], handle: TextIO) -> None:
    columns = ("Timestamp", "Session ID", "Elapsed time", "Model", "Request tokens", "Response tokens")
    write_row = _csv(handle, (*columns, "Total tokens", "Log Type"))
    for request in requests:
        prompt, output = request.prompt_tokens, request.output_tokens
        kind = "Conversation log" if request.session else "API log"
        row = (_seconds(request.arrival_ns), request.session or "", "", "GPT-4", prompt, output, prompt + output, kind)
        write_row(row)


def _mooncake(requests: Iterable[Request], handle: TextIO) -> None:
    """Write blocks of 512 tokens, numbered by first appearance; equal ones have equal identifiers."""
    numbers: dict[tuple[int, int], int] = {}
    next_block = 0
    for request in requests:
        prompt, prefix = request.prompt_tokens, request.prefix
        hash_ids = []
        for end in (*range(BLOCK_TOKENS, prompt, BLOCK_TOKENS), prompt):
            block = next_block
            if prefix is not None and end <= prefix.tokens:
                # The identifier of a block's last token stands for all tokens before, and its end for their number.
                block = numbers.setdefault((prefix.ids[bisect_left(prefix.ends, end)], end), next_block)
            next_block += block == next_block
            hash_ids.append(block)
        entry = {
            "timestamp": request.arrival_ns // NS_PER_MS,
            "input_length": prompt,
            "output_length": request.output_tokens,
            "hash_ids": hash_ids,
        }
        handle.write(json.dumps(entry) + "\n")


def _sharegpt(requests: Iterable[Request], handle: TextIO) -> None:
    separator = "[\n"
    for request in requests:
        turns = (("human", request.prompt_tokens), ("gpt", request.output_tokens))
        conversation = [{"from": role, "value": _filler(tokens)} for role, tokens in turns]
        handle.write(separator + json.dumps({"id": str(request.id), "conversations": conversation}))
        separator = ",\n"
    handle.write("\n]\n")


def _filler(tokens: int) -> str:
    return (_FILLER * tokens)[: 4 * tokens]


def _vllm(requests: Iterable[Request], handle: TextIO) -> None:
    listed = list(requests)
    document = {
        "start_times": [request.arrival_ns / NS_PER_S for request in listed],
        "input_lens": [request.prompt_tokens for request in listed],
        "output_lens": [request.output_tokens for request in listed],
        "errors": [""] * len(listed),
    }
    handle.write(json.dumps(document) + "\n")


def _own_csv(requests: Iterable[Request], handle: TextIO) -> None:
    write_row = _csv(
        handle, ("arrival_s", "prompt_tokens", "output_tokens", "slo_class", "priority", "session", "prefix_segments")
    )
    for request in requests:
        lengths = (request.prompt_tokens, request.output_tokens)
        labels = (request.slo_class or "", request.priority or "", request.session or "", _segments(request) or "")
        write_row((_seconds(request.arrival_ns), *lengths, *labels))


def _own_jsonl(requests: Iterable[Request], handle: TextIO) -> None:
    for request in requests:
        entry = {
            "arrival_s": request.arrival_ns / NS_PER_S,
            "prompt_tokens": request.prompt_tokens,
            "output_tokens": request.output_tokens,
            "slo_class": request.slo_class,
            "priority": request.priority or None,
            "session": request.session,
            "prefix_segments": _segments(request),
        }
        handle.write(json.dumps({key: value for key, value in entry.items() if value is not None}) + "\n")


def _segments(request: Request) -> str | None:
    """Return the prefix of a request as text, None if it has none."""
    prefix = request.prefix
    if prefix is None:
        return None
    return " ".join(f"{one}:{min(end, prefix.tokens)}" for one, end in zip(prefix.ids, prefix.ends, strict=True))


def _seconds(arrival_ns: int) -> str:
    """Return exact decimal seconds without trailing zeros."""
    whole, rest_ns = divmod(arrival_ns, NS_PER_S)
    return f"{whole}.{rest_ns:09d}".rstrip("0").rstrip(".")


def _csv(handle: TextIO, columns: Iterable[str]) -> Callable[[Iterable[object]], object]:
    writer = csv.writer(handle, lineterminator="\n")
    writer.writerow(columns)
    return writer.writerow


FORMATS: dict[str, WriteFormat] = {
    "azure": WriteFormat(
        "Azure 2023 CSV", _azure_2023, "resolution below 100 ns, slo_class, priority, session, prefixes"
    ),
    "azure-2024": WriteFormat(
        "Azure 2024 CSV", _azure_2024, "resolution below 1 µs, slo_class, priority, session, prefixes"
    ),
    "burstgpt": WriteFormat("BurstGPT CSV, six columns", _burstgpt, "slo_class, priority, session, prefixes"),
    "burstgpt-sessions": WriteFormat(
        "BurstGPT CSV, eight columns", _burstgpt_sessions, "slo_class, priority, prefixes"
    ),
    "mooncake": WriteFormat(
        "Mooncake JSONL",
        _mooncake,
        "resolution below 1 ms, slo_class, priority, session, prefixes that end inside a block",
    ),
    "sharegpt": WriteFormat(
        "ShareGPT JSON, filler text", _sharegpt, "all times, slo_class, priority, session, prefixes"
    ),
    "vllm": WriteFormat("arrays of vllm bench serve --save-detailed", _vllm, "slo_class, priority, session, prefixes"),
    "csv": WriteFormat("CSV", _own_csv),
    "jsonl": WriteFormat("JSONL", _own_jsonl),
}
"""The output formats by name."""
