"""ShareGPT conversations, and the detailed results of vLLM's ``bench serve``; both are JSON and read whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from helixsim.errors import DataError
from helixsim.workload.readers.base import ReadOptions, Row, fault, json_document, time_ns, token_count

VLLM_KEYS = ("start_times", "input_lens", "output_lens")
TOKEN_KEYS = ("prompt_tokens", "output_tokens")


def sharegpt(path: Path, options: ReadOptions) -> Iterator[Row]:
    """Yield the first exchange of each conversation, as vLLM's own loader does; the format has no times.

    An entry may carry ``prompt_tokens`` and ``output_tokens``. Otherwise its texts are counted as
    ``options.chars_per_token`` characters per token, which is an estimate and must be asked for. The row number is the
    position in the list, from 1.
    """
    document = json_document(path)
    if not isinstance(document, list):
        raise DataError(f"{path}: expected a JSON list of conversations, got {type(document).__name__}")
    for number, entry in enumerate(document, start=1):
        if not isinstance(entry, dict) or not isinstance(entry.get("conversations"), list):
            fault(path, number, "conversations", "missing or not a list")
        if all(key in entry for key in TOKEN_KEYS):
            prompt, output = (token_count(path, number, key, entry[key]) for key in TOKEN_KEYS)
            yield Row(number, 0, prompt, output)
        elif len(entry["conversations"]) < 2:
            yield Row(number, 0, 0, 0, failure="fewer than two turns")
        else:
            prompt, output = (_text_tokens(path, number, turn, options) for turn in entry["conversations"][:2])
            yield Row(number, 0, prompt, output)


def _text_tokens(path: Path, number: int, turn: Any, options: ReadOptions) -> int:
    text = turn.get("value") if isinstance(turn, dict) else None
    if not isinstance(text, str):
        fault(path, number, "value", f"got {turn!r}, expected a turn with text")
    if options.chars_per_token is None:
        message = (
            "text without token counts; give chars_per_token (--chars-per-token) to estimate them, 4 suits English"
        )
        fault(path, number, "conversations", message)
    return max(1, round(len(text) / options.chars_per_token)) if text else 0


def vllm(path: Path, _options: ReadOptions) -> Iterator[Row]:
    """Yield the requests of a ``vllm bench serve --save-detailed`` result, by start time.

    The arrays are in the order of the data set and requests start concurrently, so they are sorted here. Requests with
    an error text count as failed. The row number is the position in the arrays, from 1.
    """
    document = json_document(path)
    if not isinstance(document, dict):
        raise DataError(f"{path}: expected a JSON object, got {type(document).__name__}")
    for key in VLLM_KEYS:
        if not isinstance(document.get(key), list):
            raise DataError(f"{path}: no list {key!r}; was the benchmark run with --save-result --save-detailed?")
    starts, prompts, outputs = (document[key] for key in VLLM_KEYS)
    errors = document.get("errors") or [""] * len(starts)
    if not len(starts) == len(prompts) == len(outputs) == len(errors):
        sizes = ", ".join(f"{key} {len(document[key])}" for key in VLLM_KEYS)
        raise DataError(f"{path}: lists of different lengths: {sizes}, errors {len(errors)}")
    found = [
        Row(
            number,
            time_ns(path, number, "start_times", start),
            token_count(path, number, "input_lens", prompt),
            token_count(path, number, "output_lens", output),
            failure="request failed" if error else None,
        )
        for number, (start, prompt, output, error) in enumerate(
            zip(starts, prompts, outputs, errors, strict=True), start=1
        )
    ]
    yield from sorted(found, key=lambda row: row.time_ns)
