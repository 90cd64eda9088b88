"""Bands of model errors: laws on tables made up here, and on the table that ships."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helixsim.domain.figures import GpuShare, SettingFigures
from helixsim.errors import DataError
from helixsim.metrics.error_cells import (
    BATCHES,
    CONTEXTS,
    METRICS,
    Cell,
    bucket,
    cells_of,
    shipped_cells,
    shipped_differences,
)
from helixsim.metrics.error_table import KINDS, LEAST, UNKNOWN, Cells
from helixsim.metrics.model_error import Table, shipped_table

SETTING = SettingFigures((GpuShare("h100", 4, 1.0),), "vllm-1", "dense", "fp8", ("roofline",), 1.0, 16.0, 3000.0)

OTHER = {
    "gpu": lambda one: replace(one, nodes=(GpuShare("l4", one.nodes[0].gpus, 1.0),)),
    "engine": lambda one: replace(one, engine="another"),
    "family": lambda one: replace(one, family="another"),
    "weights": lambda one: replace(one, weights="int4"),
    "kind": lambda one: replace(one, is_disaggregated=True),
    "stages": lambda one: replace(one, stages=3.0),
    "regions": lambda one: replace(one, crosses_regions=True),
    "timings": lambda one: replace(one, timings=("another",)),
    "gpus": lambda one: replace(one, nodes=(GpuShare(one.nodes[0].gpu, 64, 1.0),)),
    "batch": lambda one: replace(one, batch=500.0),
    "context": lambda one: replace(one, context_tokens=1e5),
}
"""The setting with one difference that no cell of ``tables`` has."""


def cell(mean: float = 0.05, sd: float = 0.1, points: int = 200, **changes) -> Cell:
    same = {
        "gpu": ("h100",), "engine": "vllm-1", "family": "dense", "weights": "fp8", "gpus": 4,
        "batch": bucket(16, BATCHES), "context": bucket(3000, CONTEXTS),
    }  # fmt: skip
    return Cell(**{**same, **changes}, points=points, errors=dict.fromkeys(METRICS, (mean, sd)))


def width(error, metric: str = "tpot") -> float:
    low, high = error.band(metric)
    return math.log(high / low)


@st.composite
def tables(draw, same: set[str]) -> Table:
    """Return some cells that differ among each other, but none as ``OTHER``; in the kinds ``same`` they are alike."""
    cells = st.builds(
        cell, mean=st.floats(-0.5, 0.5), sd=st.floats(0, 0.5), points=st.integers(1, 300),
        gpu=st.sampled_from([("h100",), ("b200",), ("h100", "b200")]), engine=st.sampled_from(["vllm-1", "sglang"]),
        family=st.sampled_from(["dense", "moe"]), weights=st.sampled_from(["fp8", "bf16"]),
        gpus=st.sampled_from([1, 4, 8]), batch=st.integers(0, 2), context=st.integers(0, 1),
    )  # fmt: skip
    first = cell(sd=0.1)
    alike = {kind: getattr(first, kind) for kind in same - {"regions", "kind"}}
    return Table([first, *(replace(one, **alike) for one in draw(st.lists(cells, max_size=8)))])


@settings(deadline=None)
@given(kinds=st.lists(st.sampled_from(sorted(OTHER)), unique=True), more=st.sampled_from(sorted(OTHER)), data=st.data())
def test_a_further_difference_from_all_cells_never_narrows_a_band(kinds, more, data) -> None:
    setting, table = SETTING, data.draw(tables({*kinds, more}))
    for kind in kinds:
        setting = OTHER[kind](setting)
    near, far = table.estimate(setting), table.estimate(OTHER[more](setting))
    for metric in METRICS:
        assert width(far, metric) >= width(near, metric) - 1e-12
        if more not in kinds:
            assert width(far, metric) > width(near, metric)
    assert more in far.differs
    assert set(kinds) <= set(far.differs)


def test_every_kind_of_difference_is_tested() -> None:
    assert OTHER.keys() == KINDS.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_what_differs_is_named(kind) -> None:
    found = Table([cell()]).estimate(OTHER[kind](SETTING))
    assert (found.label, found.differs) == ("extrapolated", (kind,))
    assert KINDS[kind] in found.sentence


def test_a_system_like_a_cell_of_many_points_is_validated_with_these_and_its_spread() -> None:
    table = Table([cell(points=2000), cell(points=50, gpu=("b200",), mean=0.5)])
    found = table.estimate(SETTING)
    assert (found.label, found.points, found.differs) == ("validated", 2000, ())
    low, high = found.band("tpot")
    alone = Table([cell(points=2000)]).estimate(SETTING).band("tpot")
    assert alone.low == pytest.approx(math.exp(-0.05 - 1.2816 * 0.1), rel=1e-3)
    assert alone.high == pytest.approx(math.exp(-0.05 + 1.2816 * 0.1), rel=1e-3)
    assert low <= alone.low
    assert high == pytest.approx(alone.high, rel=0.1)


def test_a_system_between_cells_in_gpus_batch_and_context_is_validated_by_both() -> None:
    around = [cell(gpus=1, batch=0, context=0, points=30), cell(gpus=8, batch=3, context=2, points=40)]
    found = Table(around).estimate(SETTING)
    assert (found.label, found.points) == ("validated", 70)
    assert "1-8 GPUs" in found.sentence
    assert Table(around[:1]).estimate(SETTING).differs == ("gpus", "batch", "context")


def test_a_mixed_system_is_as_good_as_its_parts() -> None:
    table = Table([cell(mean=0.2), cell(mean=-0.2, gpu=("b200",))])
    mixed = replace(SETTING, nodes=(GpuShare("h100", 4, 0.5), GpuShare("b200", 4, 0.5)))
    found, one = table.estimate(mixed), table.estimate(SETTING)
    assert found.errors["tpot"].mean == pytest.approx(0.0)
    assert found.points == 2 * one.points
    assert found.label == "validated"
    with_unknown = replace(SETTING, nodes=(GpuShare("h100", 4, 0.5), GpuShare("l4", 4, 0.5)))
    assert table.estimate(with_unknown).differs == ("gpu",)


def test_what_cells_differ_in_only_together_is_not_taken_for_known() -> None:
    alike, alone = cell(mean=0.0, gpu=("b200",)), cell(mean=0.01)
    both = cell(mean=0.02, engine="sglang", stages=4)
    added = Table([alone, alike, both]).known.added["tpot"]
    assert added["gpu"] == pytest.approx(3 * LEAST**2, rel=0.1)  # of two values: (2 + 1) / (2 - 1)
    assert added["stages"] == added["engine"] == added["regions"] == pytest.approx(UNKNOWN**2)


def test_cells_that_contradict_each_other_make_a_wide_band() -> None:
    mixed = replace(SETTING, nodes=(GpuShare("h100", 4, 0.5), GpuShare("b200", 4, 0.5)))
    found = Table([cell(mean=0.2, sd=0.02), cell(mean=-0.2, sd=0.02, gpu=("b200",))]).estimate(mixed)
    assert found.errors["tpot"].sd > 0.19


def test_one_point_says_less_than_many_of_the_same_spread() -> None:
    one, many = (Table([cell(sd=0.1, points=points)]).estimate(SETTING).errors["tpot"].sd for points in (2, 500))
    assert one == pytest.approx(many * math.sqrt(1.5), rel=0.01)


def test_sixteen_bit_formats_are_one() -> None:
    assert Table([cell(weights="bf16")]).estimate(replace(SETTING, weights="fp16")).label == "validated"


def test_what_the_models_do_not_represent_is_unsupported_with_the_reason() -> None:
    found = Table([cell()]).estimate(replace(SETTING, unsupported=("no such engine on this GPU",)))
    assert found.label == "unsupported"
    assert "no such engine" in found.sentence
    assert found.to_json()["unsupported"] == ["no such engine on this GPU"]


def test_a_metric_that_a_cell_lacks_has_the_errors_of_the_others() -> None:
    without = replace(cell(gpu=("b200",), mean=9.0), errors={"tpot": (0.0, 0.1)})
    found = Table([without, cell(mean=0.3)]).estimate(replace(SETTING, nodes=(GpuShare("b200", 4, 1.0),)))
    assert found.errors["ttft"].mean == pytest.approx(0.3)
    assert found.errors["tpot"].mean < 0.1


@pytest.fixture(scope="module")
def made_anew() -> Table:
    """The shipped table with what differences add found from its cells."""
    return Table(*shipped_cells())


@settings(deadline=None, max_examples=20)
@given(setting=st.builds(
    SettingFigures,
    st.lists(st.builds(GpuShare, st.sampled_from(["h100", "l4", "mi300x"]), st.sampled_from([1, 2, 16]),
                       st.floats(0.1, 1)), min_size=1, max_size=3).map(tuple),
    st.sampled_from(["vllm-1", "ideal"]), st.sampled_from(["dense", "moe", "new"]), st.sampled_from(["fp8", "int4"]),
    st.just(("roofline",)), st.floats(0.5, 30), st.floats(0, 1e4), st.floats(1, 1e6),
))  # fmt: skip
def test_the_shipped_table_answers_for_every_system_the_same_each_time(made_anew, setting) -> None:
    found = shipped_table().estimate(setting)
    assert found.to_json() == made_anew.estimate(setting).to_json()
    for metric in METRICS:
        low, high = found.band(metric)
        assert 0 < low < high < math.inf


def test_a_cell_of_the_shipped_table_is_validated_by_its_points() -> None:
    cells = [one for one in shipped_cells()[0] if one.stages == 1 and len(one.gpu) == 1]
    most = max(cells, key=lambda one: one.points)
    batch, context = [8, 32, 128, 200][most.batch], [1000, 4000, 20000][most.context]
    nodes = (GpuShare(most.gpu[0], most.gpus, 1.0),)
    found = shipped_table().estimate(
        SettingFigures(nodes, most.engine, most.family, most.weights, most.timings, 1.0, batch, context)
    )
    assert found.label == "validated"
    assert found.points >= most.points


@pytest.mark.parametrize("change", [
    {"points": "0"}, {"gpus": "two"}, {"batch": "5-6"}, {"context": ""}, {"tpot_log_error_mean": "nan"},
    {"ttft_log_error_sd": "-1"}, {"ttft_log_error_sd": ""},
])  # fmt: skip
def test_a_damaged_table_is_refused_with_its_row(change) -> None:
    row = {
        "gpu": "h100", "engine": "vllm-1", "family": "dense", "weights": "fp8", "gpus": "4", "batch": "9-32",
        "context": "0-2k", "points": "7",
    } | {f"{metric}_log_error_{one}": "0.1" for metric in METRICS for one in ("mean", "sd")}  # fmt: skip
    assert cells_of([row], "cells.csv")[0].points == 7
    with pytest.raises(DataError, match=r"cells\.csv: row 2"):
        cells_of([row, row | change], "cells.csv")
    with pytest.raises(DataError, match="no cells"):
        cells_of([], "cells.csv")


def test_what_differences_add_ships_as_found_from_the_shipped_cells() -> None:
    cells, digest = shipped_cells()
    shipped, found = shipped_differences(digest), Cells(cells).added
    assert shipped is not None
    for metric, kinds in found.items():
        assert shipped[metric] == pytest.approx(kinds, rel=1e-6)
    assert shipped_differences("of other cells") is None
