"""The laws of a placement, each broken on its own."""

from __future__ import annotations

from dataclasses import replace

import builders
import pytest

from helixsim.domain.placement import LayerRange
from helixsim.errors import DataError, InfeasibleError
from helixsim.placement.check import check


def test_good_placement_passes() -> None:
    fleet, _, placement = builders.tiny_fleet()
    check(fleet, placement)


def test_every_misfit_is_listed_with_what_was_probably_meant() -> None:
    fleet, _, _ = builders.tiny_fleet()
    broken = builders.placement_of(fleet, {"big-O": (0, 4), "small-0": (4, 4), "small-1": (6, 9)})
    with pytest.raises(DataError) as caught:
        check(fleet, broken)
    message = str(caught.value)
    assert "'big-O'" in message
    assert "did you mean 'big-0'" in message
    assert "[4, 4)" in message
    assert "[6, 9)" in message


def test_other_model_is_refused() -> None:
    fleet, _, placement = builders.tiny_fleet()
    with pytest.raises(DataError, match="made for 9 layers"):
        check(fleet, replace(placement, num_layers=9))


def test_too_many_layers_and_bare_layers_are_both_listed() -> None:
    fleet, _, _ = builders.tiny_fleet()
    with pytest.raises(InfeasibleError, match=r"'small-0' \(small\) has 3 layers, it can hold 2.*layers on no node: 7"):
        check(fleet, builders.placement_of(fleet, {"big-0": (0, 4), "small-0": (4, 7)}))


def test_covered_layers_without_a_route_are_refused() -> None:
    fleet, _, _ = builders.tiny_fleet()
    ranges = {"big-0": (0, 4), "small-0": (3, 5), "small-1": (5, 7), "small-2": (6, 8)}
    with pytest.raises(InfeasibleError, match="no route passes all layers"):
        check(fleet, builders.placement_of(fleet, ranges))
    check(fleet, builders.placement_of(fleet, ranges, partial_inference=True))


def test_route_across_pipelines_does_not_count() -> None:
    fleet, _, placement = builders.two_node_pipeline()
    check(fleet, replace(placement, pipelines={"n-0": 3, "n-1": 3}))
    with pytest.raises(InfeasibleError, match="no route"):
        check(fleet, replace(placement, pipelines={"n-0": 0, "n-1": 1}))


def test_pipeline_of_an_empty_node_is_refused() -> None:
    fleet, _, placement = builders.two_node_pipeline()
    only = replace(placement, ranges={"n-0": LayerRange(0, 2)}, pipelines={"n-1": 0})
    with pytest.raises(DataError, match="pipeline given for 'n-1'"):
        check(fleet, only)
