"""The numbered laws every run obeys, checked at its end (architecture: INV-1 .. INV-12).

INV-3 (the clock never runs backwards) is enforced by the kernel when an event is scheduled, INV-5 (each step passes
every layer once, in order) by the coordinator on every step; both raise at once. INV-6, 11 and 12 speak of several
runs and are tests.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from helixsim.domain.result import InvariantCheck, RequestColumns, RequestStatus, Series
from helixsim.engine.recorder import Recorder
from helixsim.engine.system import Link, NodeLoad, System
from helixsim.errors import SimulationError


def check_invariants(
    columns: RequestColumns,
    series: Series,
    system: System,
    recorder: Recorder,
    nodes: Sequence[NodeLoad],
    is_drained: bool,
    end_ns: int,
) -> tuple[InvariantCheck, ...]:
    """Return each law with whether it held and the figures that show it."""
    return (
        _conservation(columns, system, recorder),
        _causality(columns),
        _kv_memory(system, is_drained),
        _no_idle_work(system, end_ns),
        _links(system.links(), is_drained, end_ns),
        _no_overtime(nodes, series, end_ns),
        _parts_add_up(columns),
    )


def check_state(system: System, now_ns: int) -> tuple[InvariantCheck, ...]:
    """Return the laws that hold at every instant: KV memory and no idle work."""
    return _kv_memory(system, is_drained=False), _no_idle_work(system, now_ns)


def raise_if_broken(checks: Sequence[InvariantCheck]) -> None:
    """Raise ``SimulationError`` with all laws that did not hold."""
    broken = [f"{check.name}: {check.detail}" for check in checks if not check.held]
    if broken:
        raise SimulationError("the simulation broke its own laws (please report): " + "; ".join(broken))


def _conservation(columns: RequestColumns, system: System, recorder: Recorder) -> InvariantCheck:
    counts = {status: int(np.count_nonzero(columns.status == status)) for status in RequestStatus}
    held = (
        counts[RequestStatus.RUNNING] == system.running
        and counts[RequestStatus.WAITING] == system.num_waiting
        and counts[RequestStatus.FINISHED] == recorder.finished
        and counts[RequestStatus.REJECTED] == recorder.rejected
        and counts[RequestStatus.FAILED] == recorder.failed
    )
    shown = {status: count for status, count in counts.items() if count or status is not RequestStatus.FAILED}
    parts = ", ".join(f"{count} {status.name.lower()}" for status, count in shown.items())
    return InvariantCheck("INV-1 conservation", held, f"{len(columns.status)} arrived = {parts}")


def _causality(columns: RequestColumns) -> InvariantCheck:
    finished = columns.status == RequestStatus.FINISHED
    times = np.stack(
        [
            columns.arrival_ns[finished],
            columns.admitted_ns[finished],
            columns.first_token_ns[finished],
            columns.finish_ns[finished],
        ]
    )
    broken = int(np.count_nonzero(np.any(np.diff(times, axis=0) < 0, axis=0)))
    return InvariantCheck("INV-2 causality", broken == 0, f"{broken} requests out of order")


def _kv_memory(system: System, is_drained: bool) -> InvariantCheck:
    wrong = [
        memory.owner
        for memory in system.memories()
        if memory.used != memory.expected
        or not 0 <= memory.used <= memory.capacity
        or memory.reserved < memory.used
        or (is_drained and memory.used and not memory.stays)
    ]
    return InvariantCheck(
        "INV-4 KV memory", not wrong, f"wrong on {', '.join(wrong)}" if wrong else "all blocks accounted"
    )


def _no_idle_work(system: System, now_ns: int) -> InvariantCheck:
    idle = system.idle_with_work(now_ns)
    return InvariantCheck("INV-7 no idle work", not idle, f"idle with work: {', '.join(idle)}" if idle else "none idle")


def _links(channels: Sequence[Link], is_drained: bool, end_ns: int) -> InvariantCheck:
    wrong = [
        f"{channel.src}->{channel.dst}"
        for channel in channels
        if channel.bytes_received > channel.bytes_sent
        or (is_drained and channel.bytes_received != channel.bytes_sent)
        or not 0 <= channel.busy_until(end_ns) <= end_ns
    ]
    return InvariantCheck("INV-8 links", not wrong, f"wrong on {', '.join(wrong)}" if wrong else "sent = received")


def _no_overtime(nodes: Sequence[NodeLoad], series: Series, end_ns: int) -> InvariantCheck:
    steps = np.diff(series.time_ns)
    over = bool(np.any(np.diff(series.busy_ns, axis=0) > steps[:, None])) if len(steps) else False
    wrong = [node.node_id for node in nodes if node.busy_ns > end_ns]
    return InvariantCheck("INV-9 no overtime", not wrong and not over, "no node busier than the clock")


def _parts_add_up(columns: RequestColumns) -> InvariantCheck:
    finished = columns.status == RequestStatus.FINISHED
    named = (columns.queue_ns, columns.compute_ns, columns.network_ns, columns.transfer_ns, columns.load_ns)
    parts = sum(named)
    off = np.abs((parts - (columns.finish_ns - columns.arrival_ns))[finished])
    worst = int(off.max(initial=0))
    least = min(int(part[finished].min(initial=0)) for part in named)
    detail = f"largest difference {worst} ns, smallest part {least} ns"
    return InvariantCheck("INV-10 latency parts", worst == 0 and least >= 0, detail)
