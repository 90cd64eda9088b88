"""Curves of step times: between, below and beyond their knots."""

from __future__ import annotations

import pytest

from helixsim.domain.curves import Curve
from helixsim.domain.hardware import ComputeProfile


def test_a_curve_that_falls_at_its_end_falls_no_further() -> None:
    """A measured table may dip; beyond it more work never takes less time."""
    falling = Curve((1.0, 10.0, 20.0), (100.0, 300.0, 200.0))
    assert falling(15.0) == 250.0
    assert [falling(x) for x in (20.0, 30.0, 1000.0)] == [200.0] * 3


def test_a_curve_goes_on_as_it_ended_and_keeps_its_first_value() -> None:
    rising = Curve((2.0, 4.0), (10.0, 14.0))
    assert [rising(x) for x in (0.0, 0.5, 2.0, 3.0, 6.0)] == [0.0, 10.0, 10.0, 12.0, 18.0]
    assert Curve((3.0,), (7.0,))(100.0) == 7.0


def test_a_short_context_takes_a_step_no_lower_than_one_sequence_does() -> None:
    """... nor lower than the table says where that falls below the first sequence."""
    compute = ComputeProfile(
        "k", "m", "measured", Curve((1.0,), (1.0,)), Curve((1.0, 4.0), (100.0, 160.0)), 1.0, 0.0, "", 50
    )
    assert compute.decode_ns(2, 4) == 320.0
    assert compute.decode_ns(2, 4, 200) == 320.0
    assert compute.decode_ns(2, 4, 230) == 380.0
    assert compute.decode_ns(2, 4, 4) == 200.0  # 160 - 196 would be below nothing
    falling = ComputeProfile(
        "k", "m", "measured", Curve((1.0,), (1.0,)), Curve((1.0, 4.0), (100.0, 80.0)), 1.0, 0.0, "", 50
    )
    assert falling.decode_ns(2, 4) == falling.decode_ns(2, 4, 4) == 160.0
    assert compute.decode_ns(1, 4, 200) == pytest.approx(compute.decode_ns(1, 4))
