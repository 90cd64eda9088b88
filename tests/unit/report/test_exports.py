"""What is written for other programs: partitions for vLLM."""

from __future__ import annotations

import pytest

from helixsim.domain.placement import LayerRange, Placement
from helixsim.results.placement_json import _vllm_partitions


def partitions(ranges: dict[str, tuple[int, int]], pipelines: dict[str, int] | None = None, layers: int = 8):
    placement = Placement(
        "x", layers, {node: LayerRange(*held) for node, held in ranges.items()}, pipelines=pipelines or {}
    )
    return {tuple(one["nodes"]): one["VLLM_PP_LAYER_PARTITION"] for one in _vllm_partitions(placement)}


def test_a_chain_is_written_in_order_of_its_layers() -> None:
    assert partitions({"b": (5, 8), "a": (0, 5)}) == {("a", "b"): "5,3"}


@pytest.mark.parametrize(
    "ranges",
    [
        {"a": (0, 3), "b": (4, 8)},  # a gap: vLLM would give the second node layers 3 to 7
        {"a": (0, 5), "b": (4, 8)},  # an overlap
        {"a": (0, 5), "b": (5, 7)},  # the last layer is missing
        {"a": (1, 5), "b": (5, 8)},  # the first one
        {"a": (0, 8), "b": (0, 8)},  # side by side
        {"a": (0, 4), "b": (4, 8), "c": (4, 8)},
    ],
)
def test_what_is_no_chain_of_single_nodes_is_not_written(ranges) -> None:
    assert partitions(ranges) == {}


def test_each_pipeline_is_a_chain_of_its_own() -> None:
    ranges = {"a": (0, 8), "b": (0, 4), "c": (4, 8), "d": (0, 4), "e": (5, 8)}
    pipelines = {"a": 0, "b": 1, "c": 1, "d": 2, "e": 2}
    assert partitions(ranges, pipelines) == {("a",): "8", ("b", "c"): "4,4"}
