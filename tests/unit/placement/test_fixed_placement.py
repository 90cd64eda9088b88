"""Placements read from files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import builders
import pytest

from helixsim.domain.placement import LayerRange
from helixsim.errors import DataError, InfeasibleError
from helixsim.placement.base import PlacementProblem
from helixsim.placement.fixed import Fixed, FixedOptions


def solve(tmp_path: Path, content: Any) -> Any:
    fleet, table, _ = builders.tiny_fleet()
    file = tmp_path / "placement.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    return Fixed().solve(PlacementProblem(fleet, table), FixedOptions(file))


GOOD = {"big-0": [0, 4], "small-0": [4, 6], "small-1": None, "small-2": [6, 8]}


def test_file_is_read_as_written(tmp_path: Path) -> None:
    placement = solve(tmp_path, {"layers": GOOD, "partial_inference": True})
    assert dict(placement.ranges) == {
        "big-0": LayerRange(0, 4),
        "small-0": LayerRange(4, 6),
        "small-2": LayerRange(6, 8),
    }
    assert placement.partial_inference
    assert placement.objective_tokens_per_s == pytest.approx(60.0)


def test_pipelines_of_a_file_are_kept(tmp_path: Path) -> None:
    numbers = {"big-0": 1, "small-0": 1, "small-2": 1}
    assert solve(tmp_path, {"layers": GOOD, "pipelines": numbers}).pipelines == numbers


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1], "placement file holds the keys"),
        ({"layer": GOOD}, "did you mean 'layers'"),
        ({"layers": {}}, "must map node ids"),
        ({"layers": GOOD | {"smal-3": [6, 8]}}, "did you mean 'small-"),
        ({"layers": GOOD | {"big-0": [0]}}, r"layers.big-0 is \[0\]"),
        ({"layers": GOOD | {"big-0": [0, True]}}, "expected \\[start, end\\]"),
        ({"layers": GOOD, "partial_inference": "yes"}, "expected true or false"),
        ({"layers": GOOD, "pipelines": {"big-0": "one"}}, "expected a whole number"),
        ({"layers": GOOD | {"big-0": [4, 0]}}, "allowed: 0 <= start < end <= 8"),
    ],
)
def test_faults_name_the_file_and_the_node(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        solve(tmp_path, content)


def test_file_that_leaves_layers_bare_is_infeasible(tmp_path: Path) -> None:
    with pytest.raises(InfeasibleError, match="layers on no node: 6-7"):
        solve(tmp_path, {"layers": {"big-0": [0, 4], "small-0": [4, 6]}})
