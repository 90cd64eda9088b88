"""Each law of a run, broken on purpose in a run that is otherwise sound: it is reported, and the run refused."""

from __future__ import annotations

from types import SimpleNamespace

import builders
import pytest
from simulating import MS, SECOND, inputs_of, random_load, requests

from helixsim.domain.request import Window
from helixsim.domain.result import InvariantCheck
from helixsim.engine import node_system
from helixsim.engine.invariants import check_invariants, check_state, raise_if_broken
from helixsim.engine.kvcache import KvPool
from helixsim.engine.simulate import _Run, simulate
from helixsim.engine.state import Cohort
from helixsim.errors import ExitCode, SimulationError


class Ended:
    """A run that has ended, sound, with what its laws are checked on at hand."""

    def __init__(self, window: Window | None = None) -> None:
        run = _Run(inputs_of(builders.two_node_pipeline(), random_load(1, 40, rate_rps=20.0), window=window), None)
        self.result = run.execute()
        self.system = run.system
        self.coordinator, self.workers, self.fabric = run.system.coordinator, run.system.workers, run.system.fabric
        self.columns, self.series = self.result.requests, self.result.series
        self.is_drained = window is None
        self.end_ns = self.result.end_ns
        self.pool = self.coordinator.pools[0]
        self.channel = next(iter(self.fabric.channels.values()))

    def broken(self) -> list[str]:
        checks = check_invariants(
            self.columns, self.series, self.system, self.coordinator.recorder, self.system.nodes(self.end_ns),
            self.is_drained, self.end_ns,
        )  # fmt: skip
        return [check.name.split()[0] for check in checks if not check.held]


def drained() -> Ended:
    return Ended()


def cut() -> Ended:
    """Ended in the middle, with requests in flight."""
    ended = Ended(Window(0, SECOND, drain=False))
    assert ended.pool.residents
    return ended


@pytest.fixture(params=[drained, cut])
def ended(request) -> Ended:
    return request.param()


def test_a_sound_run_breaks_none(ended: Ended) -> None:
    assert ended.broken() == []
    names = [check.name.split()[0] for check in ended.result.invariants]
    assert names == ["INV-1", "INV-2", "INV-4", "INV-7", "INV-8", "INV-9", "INV-10"]


def lose_a_running_request(ended: Ended) -> None:
    ended.coordinator.running += 1


def lose_a_finished_request(ended: Ended) -> None:
    ended.coordinator.recorder.finished += 1


def lose_a_rejected_request(ended: Ended) -> None:
    ended.coordinator.recorder.rejected += 1


def lose_a_waiting_request(ended: Ended) -> None:
    ended.coordinator.waiting.append(SimpleNamespace(row=0))


@pytest.mark.parametrize(
    "fault", [lose_a_running_request, lose_a_finished_request, lose_a_rejected_request, lose_a_waiting_request]
)
def test_conservation(ended: Ended, fault) -> None:
    fault(ended)
    assert ended.broken() == ["INV-1"]


@pytest.mark.parametrize("later", ["admitted_ns", "first_token_ns", "finish_ns"])
def test_causality(ended: Ended, later: str) -> None:
    """Each time is put a nanosecond before the one that must precede it."""
    names = ["arrival_ns", "admitted_ns", "first_token_ns", "finish_ns"]
    earlier = getattr(ended.columns, names[names.index(later) - 1])
    row = int((ended.columns.finish_ns > 0).argmax())
    getattr(ended.columns, later)[row] = earlier[row] - 1
    assert "INV-2" in ended.broken()


def test_causality_says_nothing_of_unfinished_requests() -> None:
    ended = cut()
    row = int((ended.columns.finish_ns < 0).argmax())
    assert ended.columns.finish_ns[row] < ended.columns.arrival_ns[row]
    assert ended.broken() == []


def test_kv_memory_that_nobody_holds(ended: Ended) -> None:
    ended.pool.used += 1
    ended.pool.reserved += 1
    assert ended.broken() == ["INV-4"]


def test_kv_memory_beyond_capacity() -> None:
    ended = cut()
    ended.pool.capacity = ended.pool.used - 1
    assert ended.broken() == ["INV-4"]


def test_kv_memory_in_use_and_not_reserved() -> None:
    ended = cut()
    ended.pool.reserved = ended.pool.used - 1
    assert ended.broken() == ["INV-4"]


def test_kv_memory_in_use_when_all_is_done() -> None:
    ended = cut()
    ended.is_drained = True
    assert "INV-4" in ended.broken()


def test_idle_nodes_with_work() -> None:
    ended = drained()
    own = ("node_id", "range", "busy_until", "queue_length", "batches", "prompt_tokens", "decode_tokens")
    worker = SimpleNamespace(
        **{name: getattr(ended.workers[0], name) for name in own},
        is_busy=False, is_gathering=False, has_ready_work=lambda _now: True,
    )  # fmt: skip
    ended.workers[0] = worker
    assert ended.broken() == ["INV-7"]
    for excuse in ("is_busy", "is_gathering"):
        setattr(worker, excuse, True)
        assert ended.broken() == []
        setattr(worker, excuse, False)
    worker.has_ready_work = lambda now_ns: now_ns > ended.end_ns
    assert ended.broken() == []


def test_links_that_deliver_what_was_not_sent(ended: Ended) -> None:
    ended.channel.bytes_received = ended.channel.bytes_sent + 1
    assert "INV-8" in ended.broken()


def test_links_that_lose_bytes() -> None:
    ended = drained()
    ended.channel.bytes_received -= 1
    assert ended.broken() == ["INV-8"]


def test_links_busier_than_the_clock(ended: Ended) -> None:
    ended.channel.busy_ns = 2 * ended.end_ns + max(0, ended.channel.free_at_ns)
    assert ended.broken() == ["INV-8"]


def test_nodes_busier_than_the_clock(ended: Ended) -> None:
    ended.workers[0].busy_ns += 2 * ended.end_ns
    assert ended.broken() == ["INV-9"]


def test_nodes_busier_than_the_clock_between_two_samples(ended: Ended) -> None:
    ended.series.busy_ns[1:, 0] += 10 * int(ended.series.time_ns[1] - ended.series.time_ns[0])
    assert ended.broken() == ["INV-9"]


def test_latencies_that_are_not_the_sum_of_their_parts(ended: Ended) -> None:
    row = int((ended.columns.finish_ns > 0).argmax())
    ended.columns.network_ns[row] += 1
    assert ended.broken() == ["INV-10"]


@pytest.mark.parametrize("name", ["queue_ns", "compute_ns", "network_ns"])
def test_parts_of_a_latency_below_zero(ended: Ended, name: str) -> None:
    row = int((ended.columns.finish_ns > 0).argmax())
    other = "compute_ns" if name != "compute_ns" else "queue_ns"
    taken = getattr(ended.columns, name)[row] + 1
    getattr(ended.columns, name)[row] -= taken
    getattr(ended.columns, other)[row] += taken
    assert ended.broken() == ["INV-10"]


def test_a_step_that_left_out_a_node_is_refused() -> None:
    """INV-5."""
    ended = cut()
    request = next(iter(ended.pool.residents.values()))
    cohort = Cohort(0, request.path, [request], False, 1, request.context_tokens)
    cohort.hop = len(request.path.stages) - 1
    with pytest.raises(SimulationError, match="INV-5: a step came back after 1 of 2 stages"):
        ended.coordinator._take_tokens(cohort, [])


def test_all_broken_laws_are_named_and_those_that_hold_are_not() -> None:
    checks = [InvariantCheck(f"INV-{number}", number == 2, f"detail {number}") for number in (1, 2, 3)]
    with pytest.raises(SimulationError, match="INV-1: detail 1; INV-3: detail 3") as raised:
        raise_if_broken(checks)
    assert "INV-2" not in str(raised.value)
    assert raised.value.exit_code is ExitCode.INVALID_SIMULATION
    raise_if_broken(checks[1:2])


def forget_releases(monkeypatch) -> None:
    monkeypatch.setattr(KvPool, "release", lambda self, request, layers: self.residents.pop(request.order))


def test_a_run_that_breaks_a_law_is_no_result(monkeypatch) -> None:
    forget_releases(monkeypatch)
    with pytest.raises(SimulationError, match="INV-4 KV memory: wrong on n-0, n-1"):
        simulate(inputs_of(builders.two_node_pipeline(), requests((0, 10, 3)), check=False))


def test_laws_of_every_instant_are_checked_on_the_way_if_asked(monkeypatch) -> None:
    """A fault that mends itself before the end is seen at samples only."""
    take, release = KvPool.take, KvPool.release

    def take_too_much(self, request, layers):
        take(self, request, layers)
        self.used += 1

    def release_as_much(self, request, layers):
        release(self, request, layers)
        self.used -= 1

    monkeypatch.setattr(KvPool, "take", take_too_much)
    monkeypatch.setattr(KvPool, "release", release_as_much)
    how = {"window": Window(0, SECOND, drain=True), "sample_ns": MS}
    load = requests((0, 10, 30))
    assert simulate(inputs_of(builders.two_node_pipeline(), load, check=False, **how)).end_ns > 0
    with pytest.raises(SimulationError, match="INV-4"):
        simulate(inputs_of(builders.two_node_pipeline(), load, check=True, **how))


def test_the_laws_of_every_instant_are_memory_and_work() -> None:
    ended = cut()
    assert [check.held for check in check_state(ended.system, ended.end_ns)] == [True, True]
    ended.pool.used += 1
    assert [check.held for check in check_state(ended.system, ended.end_ns)] == [False, True]


def test_a_run_in_which_nothing_can_happen_any_more_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(node_system.Coordinator, "receive", lambda _self, _parcel: None)
    with pytest.raises(SimulationError, match=r"stalled .* 1 requests running and 0 waiting"):
        simulate(inputs_of(builders.two_node_pipeline(), requests((0, 10, 3))))
