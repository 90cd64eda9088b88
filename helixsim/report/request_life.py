"""The lives of single requests as strips: waiting, prefill and decode in time, and where the time went."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from helixsim.domain.result import IntArray
from helixsim.results.run import Run
from helixsim.units import MISSING, NS_PER_MS, NS_PER_S, number

OF_EACH = 6
"""Requests shown for each reason."""

_PHASES = ("wait", "prefill", "decode")
_TIMES = ("arrival_ns", "admitted_ns", "first_token_ns", "finish_ns")
_COUNTS = ("prompt_tokens", "output_tokens", "preemptions", "queue_ns", "compute_ns", "network_ns", "cached_tokens")
_MORE = {"transfer_ns": "transfer", "load_ns": "load"}
"""Columns of systems that prefill and decode on different nodes, or keep KV blocks behind the GPUs."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a strip: CSS class, and width in % of the longest life shown."""

    kind: str
    width: float


@dataclass(frozen=True, slots=True)
class Life:
    """A request; ``phases`` are in the order of time, ``spent`` what its time was spent on. None: did not occur."""

    number: int
    reason: str
    arrival_s: float
    ttft_s: float | None
    tpot_ms: float | None
    e2el_s: float | None
    prompt_tokens: int
    output_tokens: int
    preemptions: int
    phases: tuple[Part, ...]
    spent: tuple[Part, ...]
    tip: str


def lives(run: Run) -> tuple[Life, ...]:
    """Return the requests of a system with the longest TTFT, TPOT and E2EL, the most preemptions, and some others."""
    parts = (run.summary.disaggregation, run.summary.kv_offloading)
    more = [name for name, part in zip(_MORE, parts, strict=True) if part is not None]
    columns = run.request_columns("request_id", *_TIMES, *_COUNTS, *more)
    arrived, done = columns["arrival_ns"], columns["finish_ns"] >= 0
    if not len(arrived):
        return ()
    end_ns = round(run.window_s[1] * NS_PER_S)
    last = np.where(done, columns["finish_ns"], np.maximum(end_ns, columns["first_token_ns"]))
    started = columns["first_token_ns"] >= 0
    reasons = _chosen(columns, started, done)
    longest = max(1, int((last - arrived)[list(reasons)].max(initial=1)))
    return tuple(_life(columns, row, reasons[row], int(last[row]), longest) for row in sorted(reasons))


def _chosen(columns: dict[str, IntArray], started: NDArray[np.bool_], done: NDArray[np.bool_]) -> dict[int, str]:
    """Return the rows that are shown, each with the first reason that holds."""
    arrived = columns["arrival_ns"]
    ttft = np.where(started, columns["first_token_ns"] - arrived, -1)
    e2el = np.where(done, columns["finish_ns"] - arrived, -1)
    steps = np.maximum(columns["output_tokens"] - 1, 1)
    decode = (columns["finish_ns"] - columns["first_token_ns"]) / steps
    tpot = np.where(done & (columns["output_tokens"] > 1), decode, -1)
    orders = (
        ("longest TTFT", ttft),
        ("longest TPOT", tpot),
        ("longest E2EL", e2el),
        ("most preemptions", columns["preemptions"]),
        ("no first token", np.where(started, -1, arrived[-1] + 1 - arrived)),
    )
    chosen: dict[int, str] = {}
    for reason, values in orders:
        order = np.argsort(-values, kind="stable")[:OF_EACH]
        for row in order.tolist():
            if values[row] > 0:
                chosen.setdefault(row, reason)
    finished = np.flatnonzero(done)
    if len(finished):
        for place in np.linspace(0, len(finished) - 1, 2 * OF_EACH).round().astype(int).tolist():
            chosen.setdefault(int(finished[place]), "evenly spaced")
    return chosen


def _life(columns: dict[str, IntArray], row: int, reason: str, last_ns: int, longest_ns: int) -> Life:
    one = {name: int(values[row]) for name, values in columns.items()}
    arrival, admitted, first, finish = (one[name] for name in _TIMES)
    edges = [arrival, *(time if time >= 0 else last_ns for time in (admitted, first)), last_ns]
    spans = {kind: max(0, high - low) for kind, low, high in zip(_PHASES, edges, edges[1:], strict=False)}
    spent = {"queue": one["queue_ns"], "compute": one["compute_ns"], "network": one["network_ns"]}
    spent |= {kind: one[name] for name, kind in _MORE.items() if name in one}
    ttft = (first - arrival) / NS_PER_S if first >= 0 else None
    tokens = one["output_tokens"]
    tpot = (finish - first) / (tokens - 1) / NS_PER_MS if finish >= 0 and tokens > 1 else None
    e2el = (finish - arrival) / NS_PER_S if finish >= 0 else None
    seconds = {name: f"{name} {number(value / NS_PER_S)} s" for name, value in {**spans, **spent}.items()}
    state = "" if finish >= 0 else "\nunfinished at the end of the run"
    tip = (
        f"request {one['request_id']}: {one['prompt_tokens']} prompt + {tokens} output tokens, "
        f"{one['preemptions']} preemptions\n"
        f"in time: {', '.join(seconds[kind] for kind in spans)}\n"
        f"spent on: {', '.join(seconds[kind] for kind in spent)}{state}"
    )
    return Life(
        one["request_id"], reason, arrival / NS_PER_S, ttft, tpot, e2el, one["prompt_tokens"], tokens,
        one["preemptions"],
        tuple(Part(kind, 100 * span / longest_ns) for kind, span in spans.items() if span),
        tuple(Part(kind, 100 * min(span, longest_ns) / longest_ns) for kind, span in spent.items() if span),
        tip,
    )  # fmt: skip


def shown(value: float | None) -> str:
    """Return a figure of a request, a dash if it did not occur."""
    return MISSING if value is None else number(value)
