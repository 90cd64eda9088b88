"""The master program of stage groups: what does not fit is said, not read from an empty solution."""

from __future__ import annotations

import numpy as np
import pytest

from helixsim import solver
from helixsim.placement.bounds import _Configurations
from helixsim.placement.columns import Inside
from helixsim.placement.master import Master
from helixsim.placement.stages import NodeGroup, SegmentNode, StageGroup
from helixsim.solver import SolverError, SolveStatus


def master(max_hops: int | None) -> Master:
    """Twenty nodes that hold one or two of eight layers at 100 tokens/s."""
    group = NodeGroup("k", "here", tuple(f"k-{number}" for number in range(20)), (100.0, 100.0), (100, 50))
    made = Master(
        [group], 8, 100.0, num_regions=1, max_spread=1, max_hops=max_hops, hop_price=0.0, time_left_s=lambda: 60.0
    )
    for layers in (1, 2):
        made.add(Inside(0), StageGroup(layers, (((SegmentNode(0, layers),), 1),)))
    return made


def test_least_amounts_beyond_the_hops_do_not_fit() -> None:
    """A step of a dive may round up past the limit of hops: the program is infeasible and has no prices."""
    limited = master(max_hops=3)
    assert limited.relax(True, np.array([4.0, 0.0])) is None
    assert not limited.fits(np.array([4.0, 0.0]))
    assert limited.relax(True, np.array([0.0, 3.0])) is not None
    assert limited.fits(np.array([0.0, 3.0]))
    assert master(max_hops=None).fits(np.array([4.0, 0.0]))
    assert not master(max_hops=None).fits(np.array([21.0, 0.0]))


def test_a_mix_is_found_within_just_enough_hops() -> None:
    assert master(max_hops=3).integer() is None
    found = master(max_hops=4).integer()
    assert found is not None
    assert {column.stage_group.layers: count for column, count in found.items()} == {2: 4}


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every solve ends as one in which HiGHS gives up, which says nothing about the program."""
    given_up = solver.Solution(SolveStatus.FAILED, -np.inf, np.inf, (), (), 0)
    monkeypatch.setattr(solver, "solve", lambda *_args, **_options: given_up)


def test_a_solver_that_gives_up_is_not_taken_for_infeasible(failing: None) -> None:
    with pytest.raises(SolverError, match="failed"):
        master(max_hops=None).relax(True, None)


def test_a_bound_is_not_tightened_by_a_solver_that_gives_up(failing: None) -> None:
    program = _Configurations({(100.0, 50.0): 4}, num_layers=8, grid=60)
    assert not program.is_out_of_reach(1e6, needs_pair=False, time_left_s=lambda: 60.0)
