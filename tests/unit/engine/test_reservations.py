"""Admission counts what requests are expected to need, not what they hold when they come."""

from __future__ import annotations

import builders
import numpy as np
import pytest
from simulating import requests, run


@pytest.mark.parametrize(("high_water", "together"), [(0.6, 1), (0.9, 1), (1.0, 1), (1.1, 2)])
def test_expected_outputs_are_reserved(high_water: float, together: int) -> None:
    """20 blocks, prompts of one block each that are expected to grow to eleven: two pass only a mark above one."""
    kind = builders.profile("n", 1, kv_blocks=(20,))
    fleet = builders.fleet([kind], num_layers=1)
    case = fleet, builders.capacity_of(fleet, {"n": (1000.0,)}), builders.placement_of(fleet, {"n-0": (0, 1)})
    load = requests(*((0, 15, 20) for _ in range(4)))
    result = run(case, load, high_water=high_water, expected_output_tokens=160.0)
    rows = result.requests
    most = max(np.count_nonzero((rows.admitted_ns <= at) & (rows.finish_ns > at)) for at in rows.admitted_ns)
    assert most == together
    assert result.counters["preemptions"] == 0
