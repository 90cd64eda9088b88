"""Order of events within one instant."""

from __future__ import annotations

import pytest

from helixsim.engine.kernel import Kernel, Priority


def test_events_of_one_instant_follow_priority_not_insertion():
    kernel, seen = Kernel(), []
    for priority in reversed(Priority):
        kernel.call_in(5, priority, lambda event: seen.append(event.argument), priority)
    kernel.run()
    assert seen == sorted(Priority)
    assert kernel.now_ns == 5


def test_the_past_is_refused():
    with pytest.raises(ValueError, match="1 ns in the past"):
        Kernel().call_in(-1, Priority.DELIVER, lambda _event: None, None)


def test_stop_ends_the_run_at_once_and_keeps_the_clock():
    kernel, seen = Kernel(), []
    kernel.call_in(3, Priority.SAMPLE, lambda _event: kernel.stop(), None)
    kernel.call_in(4, Priority.DELIVER, seen.append, None)
    kernel.run()
    assert (kernel.now_ns, seen) == (3, [])
    assert not kernel.is_idle
