"""What a run writes down: one row per request, a histogram of gaps, samples at fixed times."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from helixsim.domain.request import Request
from helixsim.domain.result import GapHistogram, IntArray, RequestColumns, RequestStatus, Series
from helixsim.engine.system import NodeLoad, Recorded

GAP_RESOLUTION_NS = 10_000
"""Width of the bins of the gap histogram: 0.01 ms."""

_MOST_UNCOUNTED = 2**15
"""Gaps in runs that wait to be counted together."""

_COLUMNS = (
    "request_id",
    "status",
    "arrival_ns",
    "admitted_ns",
    "first_token_ns",
    "finish_ns",
    "prompt_tokens",
    "output_tokens",
    "route",
    "preemptions",
    "queue_ns",
    "compute_ns",
    "network_ns",
    "cached_tokens",
    "slo_class",
    "transfer_ns",
    "load_ns",
    "host_tokens",
    "disk_tokens",
)


_NOT_REACHED = ("admitted_ns", "first_token_ns", "finish_ns", "route")
_NOTHING_YET = (
    "output_tokens", "preemptions", "queue_ns", "compute_ns", "network_ns", "cached_tokens", "transfer_ns", "load_ns",
    "host_tokens", "disk_tokens",
)  # fmt: skip
_NOT_REACHED_YET, _NOTHING = array("q", [-1] * 1024), array("q", [0] * 1024)
"""What rows hold before their request ends, for many of them at once."""


def _integers(values: Sequence[int]) -> IntArray:
    return np.array(values, dtype=np.int64)


def _ends(gaps_ns: IntArray, first_ns: int) -> list[int]:
    """Return when gaps end of which each follows the one before it, the first at ``first_ns``."""
    ends: list[int] = (np.cumsum(gaps_ns) + (first_ns - gaps_ns[0])).tolist()
    return ends


def _moments(values: IntArray, counts: IntArray) -> tuple[int, int]:
    """Return the sums of values and of their squares, each so many times, as exact integers."""
    high, low = values >> _HALF, values & ((1 << _HALF) - 1)
    most = int(counts.sum())
    if most * max(int(high.max()) + 1, 1 << _HALF) ** 2 >= 2**63:
        pairs = list(zip(values.tolist(), counts.tolist(), strict=True))
        return sum([count * value for value, count in pairs]), sum([count * value * value for value, count in pairs])
    highs, lows = counts * high, counts * low
    total = (int(highs.sum()) << _HALF) + int(lows.sum())
    squares = (int(highs @ high) << 2 * _HALF) + (int(highs @ low) << _HALF + 1) + int(lows @ low)
    return total, squares


_HALF = 16
"""Bits of the lower part of a number whose square 64 bits need not hold."""


@dataclass(slots=True)
class _Samples:
    time_ns: list[int] = field(default_factory=list)
    totals: list[tuple[int, ...]] = field(default_factory=list)
    busy_ns: list[array[int]] = field(default_factory=list)
    kv_used: list[array[float]] = field(default_factory=list)
    queue_length: list[array[int]] = field(default_factory=list)
    batches: list[array[int]] = field(default_factory=list)
    decode_tokens: list[array[int]] = field(default_factory=list)

    def thin(self) -> None:
        """Drop every second sample."""
        for name in ("time_ns", "totals", "busy_ns", "kv_used", "queue_length", "batches", "decode_tokens"):
            values = getattr(self, name)
            del values[1::2]


class Recorder:
    """Counters and columns of one run.

    ``gaps`` counts ITL gaps by bin, from ``window_start_ns`` on; those of the last runs of gaps are counted when they
    are many or ``gap_histogram`` is called. ``late`` counts the first tokens in the window that took longer than
    ``late_ns`` from arrival (None: nobody asks). ``recomputed_tokens`` were computed before, too, but their KV memory
    was lost by preemption.
    """

    def __init__(self, window_start_ns: int, window_end_ns: int | None, late_ns: int | None = None) -> None:
        self.window_start_ns = window_start_ns
        self.window_end_ns = window_end_ns if window_end_ns is not None else 2**63 - 1
        self.columns: dict[str, array[int]] = {name: array("q") for name in _COLUMNS}
        self.late_ns = late_ns
        self.late = 0
        self.gaps: dict[int, int] = {}
        self.gap_sum_ns = 0
        self.gap_sum_squares_ns2 = 0
        self._gaps_ns = np.empty(_MOST_UNCOUNTED, np.int64)
        self._uncounted = 0
        self._runs: list[tuple[int, int]] = []
        self.output_tokens = 0
        self.prompt_tokens = 0
        self.recomputed_tokens = 0
        self.arrived = 0
        self.finished = 0
        self.rejected = 0
        self.failed = 0
        self.samples = _Samples()
        self._class_numbers: dict[str, int] = {}

    def add(self, request: Request, arrival_ns: int) -> int:
        """Open a row for a request that arrives and return its number."""
        columns = self.columns
        columns["request_id"].append(request.id)
        columns["arrival_ns"].append(arrival_ns)
        columns["prompt_tokens"].append(request.prompt_tokens)
        columns["status"].append(RequestStatus.WAITING)
        name = request.slo_class
        columns["slo_class"].append(
            -1 if name is None else self._class_numbers.setdefault(name, len(self._class_numbers))
        )
        row = self.arrived
        if row == len(columns["route"]):
            for name in _NOT_REACHED:
                columns[name].extend(_NOT_REACHED_YET)
            for name in _NOTHING_YET:
                columns[name].extend(_NOTHING)
        self.arrived = row + 1
        return row

    def write(self, request: Recorded, status: RequestStatus, finish_ns: int = -1) -> None:
        """Fill in the row of a request that ends, or of one that is unfinished when the run ends."""
        row, columns = request.row, self.columns
        columns["status"][row] = status
        columns["finish_ns"][row] = finish_ns
        columns["admitted_ns"][row] = request.admitted_ns
        columns["first_token_ns"][row] = request.first_token_ns
        columns["output_tokens"][row] = request.generated
        columns["preemptions"][row] = request.preemptions
        columns["queue_ns"][row] = request.queue_ns
        columns["compute_ns"][row] = request.compute_ns
        columns["network_ns"][row] = request.network_ns
        columns["cached_tokens"][row] = request.cached_tokens
        if request.loaded is not None:
            for name, value in request.loaded.items():
                columns[name][row] = value
        columns["route"][row] = request.path.number if request.path is not None else -1
        self.finished += status is RequestStatus.FINISHED
        self.rejected += status is RequestStatus.REJECTED

    def take_first_token(self, request: Recorded, now_ns: int) -> None:
        """Count the prompt of a request whose first token has come now, and the token itself where it is late."""
        self.prompt_tokens += request.prompt_tokens
        if self.late_ns is not None and self.window_start_ns < now_ns <= self.window_end_ns:
            self.late += now_ns - request.arrival_ns > self.late_ns

    def count_gaps(self, gap_ns: int, count: int, now_ns: int) -> None:
        """Count gaps between successive tokens that end now, of ``count`` requests; none if they are below zero."""
        if count and gap_ns >= 0 and self.window_start_ns < now_ns <= self.window_end_ns:
            index = gap_ns // GAP_RESOLUTION_NS
            self.gaps[index] = self.gaps.get(index, 0) + count
            self.gap_sum_ns += count * gap_ns
            self.gap_sum_squares_ns2 += count * gap_ns * gap_ns

    def count_gap_run(self, gaps_ns: IntArray, count: int, first_ns: int, last_ns: int) -> None:
        """Count these gaps of each of ``count`` requests, one after the other; the first ends at ``first_ns``.

        ``last_ns``: when the last one ends. As ``count_gaps`` for each, which costs more: they are counted together
        with those of other runs.
        """
        if first_ns <= self.window_start_ns or last_ns > self.window_end_ns:
            for gap_ns, now_ns in zip(gaps_ns.tolist(), _ends(gaps_ns, first_ns), strict=True):
                self.count_gaps(gap_ns, count, now_ns)
            return
        begin, end = self._uncounted, self._uncounted + len(gaps_ns)
        if end > len(self._gaps_ns):
            self._count_runs()
            begin, end = 0, len(gaps_ns)
            if end > len(self._gaps_ns):
                self._gaps_ns = np.empty(end, np.int64)
        self._gaps_ns[begin:end] = gaps_ns
        self._runs.append((count, end - begin))
        self._uncounted = end

    def _count_runs(self) -> None:
        """Add the gaps of the runs to the others."""
        if not self._runs:
            return
        gaps_ns = self._gaps_ns[: self._uncounted]
        counts = np.repeat(*np.array(self._runs, dtype=np.int64).T)
        self._runs, self._uncounted = [], 0
        bins, places = np.unique(gaps_ns // GAP_RESOLUTION_NS, return_inverse=True)
        gaps = self.gaps
        for index, count in zip(bins.tolist(), np.bincount(places, weights=counts).tolist(), strict=True):
            gaps[index] = gaps.get(index, 0) + int(count)
        total_ns, squares_ns2 = _moments(gaps_ns, counts)
        self.gap_sum_ns += total_ns
        self.gap_sum_squares_ns2 += squares_ns2

    def sample(self, time_ns: int, waiting: int, running: int, nodes: Sequence[NodeLoad]) -> None:
        """Take one sample of the time series; nodes may join behind those of before."""
        samples = self.samples
        if samples.time_ns and samples.time_ns[-1] == time_ns:
            return
        samples.time_ns.append(time_ns)
        samples.totals.append(
            (self.output_tokens, self.prompt_tokens, self.arrived, self.finished, waiting, running),
        )
        samples.busy_ns.append(array("q", [node.busy_ns for node in nodes]))
        samples.kv_used.append(array("d", [node.kv_used for node in nodes]))
        samples.queue_length.append(array("q", [node.queue_length for node in nodes]))
        samples.batches.append(array("q", [node.batches for node in nodes]))
        samples.decode_tokens.append(array("q", [node.decode_tokens for node in nodes]))

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes of the requests, by the number in their column."""
        return tuple(self._class_numbers)

    def request_columns(self) -> RequestColumns:
        """Return all rows as arrays, which share the memory of the recorder."""
        rows = self.arrived
        return RequestColumns(**{name: np.frombuffer(column, np.int64)[:rows] for name, column in self.columns.items()})

    def series(self) -> Series:
        """Return all samples as arrays."""
        samples = self.samples
        totals = np.array(samples.totals, dtype=np.int64).reshape(len(samples.time_ns), 6)
        return Series(
            time_ns=_integers(samples.time_ns),
            output_tokens=totals[:, 0],
            prompt_tokens=totals[:, 1],
            arrived=totals[:, 2],
            finished=totals[:, 3],
            waiting=totals[:, 4],
            running=totals[:, 5],
            busy_ns=_by_node(samples.busy_ns, np.int64),
            kv_used=_by_node(samples.kv_used, np.float64),
            queue_length=_by_node(samples.queue_length, np.int64),
            batches=_by_node(samples.batches, np.int64),
            decode_tokens=_by_node(samples.decode_tokens, np.int64),
        )

    def gap_histogram(self) -> GapHistogram:
        """Return the gaps counted, by ascending value."""
        self._count_runs()
        bins = sorted(self.gaps)
        return GapHistogram(
            resolution_ns=GAP_RESOLUTION_NS,
            value_ns=_integers(bins) * GAP_RESOLUTION_NS,
            count=_integers([self.gaps[index] for index in bins]),
            sum_ns=self.gap_sum_ns,
            sum_squares_ns2=self.gap_sum_squares_ns2,
        )


def _by_node(rows: Sequence[array[Any]], dtype: type[Any]) -> Any:
    """Return samples [S, N]; nodes that have joined later have done nothing before."""
    width = max(map(len, rows), default=0)
    zeros = [0] * width
    return np.array([row if len(row) == width else [*row, *zeros[len(row) :]] for row in rows], dtype=dtype)
