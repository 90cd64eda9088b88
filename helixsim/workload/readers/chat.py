"""ShareGPT conversations, and detailed results of ``vllm bench serve``."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

from helixsim.errors import DataError
from helixsim.jsonio import shown
from helixsim.workload.readers.base import Reading, Row
from helixsim.workload.readers.files import json_documents, listed
from helixsim.workload.readers.values import check_lists, fault, time_ns, token_count

VLLM_LENGTHS = ("input_lens", "output_lens")
TOKEN_KEYS = ("prompt_tokens", "output_tokens")

NO_START_TIMES = "no list 'start_times': vllm bench serve --save-detailed writes start times only since January 2026"


def sharegpt(reading: Reading) -> Iterator[Row]:
    """Yield the first exchange of each conversation, as vLLM's loader; the format has no times.

    An entry may have ``prompt_tokens`` and ``output_tokens``. Otherwise token counts are estimated by
    ``options.chars_per_token``, which is then required. The row number is the position in the list, from 1.
    """
    path = reading.path
    document = json_documents(path)[0]
    if not isinstance(document, list):
        raise DataError(f"{path}: expected a JSON list of conversations, got {type(document).__name__}")
    reading.lacks_times("ShareGPT conversations record no times")
    for number, entry in enumerate(document, start=1):
        if not isinstance(entry, dict) or not isinstance(entry.get("conversations"), list):
            fault(path, number, "conversations", "missing or not a list")
        if all(key in entry for key in TOKEN_KEYS):
            prompt, output = (token_count(path, number, key, entry[key]) for key in TOKEN_KEYS)
            yield Row(number, 0, prompt, output)
        elif len(entry["conversations"]) < 2:
            yield Row(number, 0, 0, 0, failure="fewer than two turns")
        else:
            prompt, output = (_text_tokens(reading, number, turn) for turn in entry["conversations"][:2])
            yield Row(number, 0, prompt, output)


def _text_tokens(reading: Reading, number: int, turn: Any) -> int:
    text = turn.get("value") if isinstance(turn, dict) else None
    if not isinstance(text, str):
        fault(reading.path, number, "value", f"got {shown(turn)}, expected a turn with text")
    chars_per_token = reading.options.chars_per_token
    if chars_per_token is None:
        message = (
            "text without token counts; give chars_per_token (--chars-per-token) to estimate them, about 4 for English"
        )
        fault(reading.path, number, "conversations", message)
    return max(1, round(len(text) / chars_per_token)) if text else 0


def vllm(reading: Reading) -> Iterator[Row]:
    """Yield the requests of a ``vllm bench serve --save-detailed`` result in order of start.

    Requests with an error text have failed. The row number is the position in the arrays, from 1.
    """
    path = reading.path
    document = vllm_result(path, json_documents(path), reading.options.result)
    for key in VLLM_LENGTHS:
        if not isinstance(document.get(key), list):
            advice = "was the benchmark run with --save-result --save-detailed?"
            raise DataError(f"{path}: no list {key!r}; {listed(list(document))}; {advice}")
    prompts, outputs = (document[key] for key in VLLM_LENGTHS)
    starts = document.get("start_times")
    has_times = starts is not None and starts != []
    if not has_times:
        reading.lacks_times(NO_START_TIMES)
    errors = document.get("errors")
    lists = {"input_lens": prompts, "output_lens": outputs}
    lists |= {"start_times": starts} if has_times else {}
    lists |= {"errors": errors} if errors else {}
    check_lists(path, lists)
    found = [
        Row(
            number,
            time_ns(path, number, "start_times", start) if has_times and reading.times != "ignored" else 0,
            token_count(path, number, "input_lens", prompt),
            token_count(path, number, "output_lens", output),
            failure="request failed" if error else None,
        )
        for number, (start, prompt, output, error) in enumerate(
            zip(starts if has_times and starts else repeat(0), prompts, outputs, errors or repeat(""), strict=False),
            start=1,
        )
    ]
    yield from sorted(found, key=lambda row: row.time_ns)


def vllm_result(path: Path, documents: list[Any], number: int | None) -> dict[str, Any]:
    """Return a result of a file that may have several (``--append-result``).

    Parameters
    ----------
    number
        Number of the result, from 1; None is an error if there are several.
    """
    if number is not None and not 1 <= number <= len(documents):
        raise DataError(f"{path}: no result {number}, the file has {len(documents)}")
    if number is None and len(documents) > 1:
        known = "; ".join(f"{at}: {_described(document)}" for at, document in enumerate(documents[:20], start=1))
        advice = "select one with --result N (workload.trace.result)"
        raise DataError(f"{path}: has {len(documents)} results (vllm bench serve --append-result); {advice}: {known}")
    document = documents[(number or 1) - 1]
    if not isinstance(document, dict):
        raise DataError(f"{path}: expected a JSON object, got {type(document).__name__}")
    return document


def _described(document: Any) -> str:
    keys = ("date", "num_prompts", "request_rate", "max_concurrency", "completed")
    known = document if isinstance(document, dict) else {}
    return ", ".join(f"{key} {shown(known[key])}" for key in keys if known.get(key) is not None) or "nothing known"
