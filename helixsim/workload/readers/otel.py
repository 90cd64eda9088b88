"""OpenTelemetry spans of requests to models, as OTLP/JSON (the collector's file exporter, one export a line).

Semantic conventions of generative AI: ``gen_ai.usage.input_tokens`` and ``output_tokens``; before version 1.27, and by
vLLM, ``prompt_tokens`` and ``completion_tokens``. A request starts with its span; ``gen_ai.conversation.id`` is its
session. Spans without these attributes are not requests, and those with status ERROR have failed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from helixsim.jsonio import shown
from helixsim.workload.readers.base import Reading, Row
from helixsim.workload.readers.files import json_lines, nested
from helixsim.workload.readers.values import fault, time_ns, token_count

MARK = "resourceSpans"

_PROMPT = ("gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens")
_OUTPUT = ("gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens")
_SESSION = "gen_ai.conversation.id"
_ERROR = (2, "STATUS_CODE_ERROR")
EXCLUDED = Row(0, 0, 0, 0)
"""Stands for a span that ``where`` excludes by an attribute."""


def rows(reading: Reading) -> Iterator[Row]:
    """Yield the requests in order of start; spans are written when they end."""
    others = 0
    found = []
    whole = replace(reading, options=replace(reading.options, where=()))  # conditions are about spans, not exports
    for line, entry in json_lines(whole):
        for span in _spans(reading, line, entry):
            row = _row(reading, line, span)
            if row is None:
                others += 1
            elif row is not EXCLUDED:
                found.append(row)
    if others:
        reading.note(f"{others} spans without numbers of tokens (gen_ai.usage.*) are not requests")
    yield from sorted(found, key=lambda row: row.time_ns)


def _spans(reading: Reading, line: int, entry: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the spans of an export."""
    for resource in _list(reading, line, entry, MARK):
        scopes = "scopeSpans" if "scopeSpans" in resource else "instrumentationLibrarySpans"
        for scope in _list(reading, line, resource, scopes):
            yield from _list(reading, line, scope, "spans")


def _list(reading: Reading, line: int, entry: dict[str, Any], key: str) -> list[dict[str, Any]]:
    found = entry.get(key, [])
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        fault(reading.path, line, key, f"got {shown(found)}, expected a list of objects")
    return found


def _row(reading: Reading, line: int, span: dict[str, Any]) -> Row | None:
    """Return the request of a span; None if it is none."""
    path = reading.path
    values = {
        one["key"]: next(iter(one["value"].values()), None)
        for one in _list(reading, line, span, "attributes")
        if isinstance(one.get("key"), str) and isinstance(one.get("value"), dict)
    }
    prompt, output = (next((name for name in names if name in values), None) for names in (_PROMPT, _OUTPUT))
    if prompt is None or output is None:
        return None
    if any(str(values.get(name)) != wanted for name, wanted in reading.options.where):
        reading.drop()
        return EXCLUDED
    session = values.get(_SESSION)
    return Row(
        line,
        time_ns(path, line, "startTimeUnixNano", span.get("startTimeUnixNano"), 1),
        token_count(path, line, prompt, values[prompt]),
        token_count(path, line, output, values[output]),
        session=None if session is None else str(session),
        failure="span has status ERROR" if nested(span, "status.code") in _ERROR else None,
    )
