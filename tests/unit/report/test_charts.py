"""Charts as SVG: axes hold what is drawn, paths have gaps where values are missing, texts are escaped."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helixsim.report.charts import Chart, Curve, Dots, linear_axis, log_axis, shares_below, sheet, short

POSITIVE = st.floats(1e-6, 1e9)


@given(st.floats(-2, 2), st.floats(1e-3, 1e6))
def test_linear_axes_hold_their_range_with_few_ticks(share: float, span: float) -> None:
    low = share * span
    axis = linear_axis("x", low, low + span)
    assert axis.low == low
    assert axis.high >= low + span * (1 - 1e-6)
    assert 1 <= len(axis.ticks) <= 8
    assert all(-1e-6 <= axis.share(value) <= 1 + 1e-6 for value, _ in axis.ticks)


@given(st.lists(POSITIVE, min_size=1, max_size=20))
def test_logarithmic_axes_hold_all_values(values: list[float]) -> None:
    axis = log_axis("x", values)
    assert all(0 <= axis.share(value) <= 1 for value in values)
    assert len(axis.ticks) >= 1
    places = [axis.share(value) for value, _ in axis.ticks]
    assert places == sorted(places)


def test_an_axis_without_values_is_still_one() -> None:
    assert log_axis("x", []).low < log_axis("x", []).high
    assert linear_axis("x", 0.0, 0.0).high > 0


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50))
def test_cumulative_shares_end_at_one(samples: list[float]) -> None:
    values, shares = shares_below(samples)
    assert values == sorted(samples)
    assert shares[-1] == 1
    assert all(0 < share <= 1 for share in shares)


def _chart(title: str = "a", *curves: Curve) -> Chart:
    axes = linear_axis("x", 0.0, 10.0), linear_axis("y", 0.0, 10.0)
    return Chart("a", title, "about", *axes, curves=curves, dots=(Dots("c2", [(5.0, 5.0)]),))


def test_missing_values_interrupt_a_path() -> None:
    chart = _chart("a", Curve("c1", [0, 1, 2, 3], [1, math.nan, 2, 3]))
    assert chart.path(chart.curves[0]).count("M") == 2


@pytest.mark.parametrize("is_step", [False, True])
def test_paths_stay_inside_the_plot(is_step: bool) -> None:
    chart = _chart("a", Curve("c1", [0, 5, 10], [0, 10, 3], is_step))
    assert chart.column(0) == chart.left
    assert chart.column(10) == chart.right
    assert chart.line(0) == chart.bottom
    assert chart.line(10) == chart.top
    path = chart.path(chart.curves[0])
    assert ("H" in path) == is_step


def test_a_sheet_is_xml_with_escaped_titles_and_every_chart() -> None:
    text = sheet("<b> & \x1b", [("</text>", [_chart("<script>", Curve("c1", [0, 1], [0, 1]))] * 4)], (("c1", "a&b"),))
    root = ET.fromstring(text)
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts.count("<script>") == 4
    assert "</text>" in texts
    assert "a&b" in texts
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")


def test_short_numbers() -> None:
    assert [short(value) for value in (0, 0.5, 20, 1500, 2e6, -3)] == ["0", "0.5", "20", "1.5 k", "2 M", "−3"]
