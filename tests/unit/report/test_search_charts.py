"""Charts of sweeps, capacities and fleets: what is drawn, what is labelled, and objectives."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import product
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helixsim.config.sweep_file import Plot
from helixsim.domain.request import Slo
from helixsim.metrics.objectives import Target
from helixsim.report.charts import linear_axis
from helixsim.report.heat_map import heat_maps
from helixsim.report.search_charts import (
    capacity_charts,
    fleet_charts,
    front_of,
    labels_beside,
    users_against_gpus,
)
from helixsim.report.sweep_charts import limit_of, line_keys, sweep_charts
from helixsim.report.sweep_files import write_sweep
from helixsim.results.capacity import CapacityEstimate, CapacityResults, SystemCapacity
from helixsim.results.sweep import SweepResults, error_of, mean_rows
from helixsim.units import number as shown

FIGURES = st.floats(0.1, 100.0)
POINTS = st.lists(st.tuples(FIGURES, FIGURES), min_size=1, max_size=12)


@given(POINTS, st.sampled_from(["min", "max"]), st.sampled_from(["min", "max"]))
def test_no_point_beats_one_of_the_front_and_all_others_are_beaten(points, x_goal, y_goal) -> None:
    rows = [{"x": x, "y": y} for x, y in points]
    front = front_of(rows, "x", "y", x_goal, y_goal)

    def beats(one, other):
        across, up = (1 if x_goal == "min" else -1), (1 if y_goal == "min" else -1)
        no_worse = across * one["x"] <= across * other["x"] and up * one["y"] <= up * other["y"]
        return no_worse and (one["x"], one["y"]) != (other["x"], other["y"])

    assert not any(beats(row, best) for row in rows for best in front)
    kept = {(row["x"], row["y"]) for row in front}
    assert all((row["x"], row["y"]) in kept or any(beats(best, row) for best in front) for row in rows)
    assert [row["x"] for row in front] == sorted(row["x"] for row in front)


@given(POINTS)
def test_labels_do_not_cover_each_other(points) -> None:
    x, y = linear_axis("x", 0.0, 100.0), linear_axis("y", 0.0, 100.0)
    notes = labels_beside([(*point, str(number)) for number, point in enumerate(points)], x, y)
    assert notes[0].text == "0"
    for number, one in enumerate(notes):
        assert all(abs(one.x - two.x) > 16 or abs(one.y - two.y) > 7 for two in notes[:number])


def trials():
    return [
        {"system": system, "seed": 0, "rate": float(rate), "p99_ttft_ms": 100.0 * rate * slow,
         "p99_tpot_ms": 10.0 * rate, "slo_attainment": 1.0 if rate < 3 else 0.4, "meets_slo": str(rate < 3),
         "output_throughput": 50.0 * rate,
         "tokens_per_s_per_user": 20.0 / rate, "tokens_per_s_per_gpu": 5.0 * rate}
        for system, slow in (("helix", 1), ("swarm", 4))
        for rate in range(1, 6)
    ]  # fmt: skip


def test_load_curves_have_every_trial_its_objective_and_the_capacities() -> None:
    def found(rate):
        return CapacityEstimate("slo", (rate,), rate, None, None, "TTFT", None)

    systems = tuple(SystemCapacity(name, 9.0, (found(2.0),), (), 5) for name in ("helix", "swarm"))
    results = CapacityResults("x", (Target("slo", Slo(ttft_s=0.4)),), 0.02, (0, 1), (0.0, 60.0), systems, {})
    charts = {chart.name: chart for chart in capacity_charts(results, trials())}
    ttft = charts["load-p99-ttft-ms"]
    assert ttft.y.high < 2.0  # not up to the slowest
    for group in ttft.dots:
        rates = [rate for rate, _ in group.points]
        expected = [
            row["rate"] for row in trials() if row["system"] == group.name and row["p99_ttft_ms"] / 1e3 <= ttft.y.high
        ]
        assert rates == expected
        assert len(group.labels) == len(rates)
    assert [guide.ys for guide in ttft.guides if guide.kind == "slo"] == [(0.4, 0.4)]
    assert sum(guide.xs == (2.0, 2.0) for guide in ttft.guides) == 2
    assert not [guide for guide in charts["load-output-throughput"].guides if guide.kind == "slo"]
    users = charts["users-gpus"]
    hollow = sum(len(group.points) for group in users.dots if "hollow" in group.kind)
    assert hollow == sum(row["meets_slo"] == "False" for row in trials())


def test_without_gpus_there_is_no_chart_of_them() -> None:
    assert users_against_gpus([{"system": "a", "label": "x", "tokens_per_s_per_user": 1.0}], {"a": "c1"}) == ()


def test_lines_of_a_sweep_have_bands_objectives_and_the_best_point() -> None:
    rows = tuple(
        {"point": point, "rate": rate, "seed": seed, "run": "", "system": system, "saturation": "STABLE",
         "p99_ttft_ms": 100.0 * rate + 10 * seed + 5 * (system == "swarm"), "output_throughput": 10.0 * rate}
        for point, rate in enumerate((1, 2, 4)) for seed in (0, 1) for system in ("helix", "swarm")
    )  # fmt: skip
    results = SweepResults("s", None, ("rate",), (0, 1), "p99_ttft_ms", False, False, rows, (), None, Slo(ttft_s=0.3))
    assert limit_of(results, "p99_ttft_ms") == 300.0
    assert limit_of(results, "ttft_p99_s") == 0.3
    assert limit_of(results, "output_throughput") is None
    (chart,) = sweep_charts(results, mean_rows(results), [Plot("lines", "rate", "p99_ttft_ms")])
    assert [curve.name for curve in chart.curves] == ["helix", "swarm"]
    assert list(chart.curves[0].ys) == [105.0, 205.0, 405.0]
    assert len(chart.bands) == 2
    assert [guide.ys for guide in chart.guides] == [(300.0, 300.0)]
    assert any(note.text.startswith("best: helix") for note in chart.notes)


def sweep_of(systems: tuple[str, ...], plot: Plot) -> SweepResults:
    """Two percentiles over a budget that doubles."""
    rows = tuple(
        {"point": point, "budget": budget, "seed": 0, "run": "", "system": system, "saturation": "STABLE",
         "p50_ttft_ms": 1e5 / budget, "p99_ttft_ms": 4e5 / budget}
        for point, budget in enumerate((512, 1024, 16384)) for system in systems
    )  # fmt: skip
    return SweepResults("s", None, ("budget",), (0,), "p50_ttft_ms", False, False, rows, (), (plot,), Slo())


BOTH = Plot("lines", "budget", "p50_ttft_ms", beside=("p99_ttft_ms",))


@pytest.mark.parametrize("systems", [("one",), ("one", "two")])
def test_results_of_one_unit_share_a_chart_with_a_line_and_an_entry_of_the_legend_for_each(systems) -> None:
    results = sweep_of(systems, BOTH)
    (chart,) = sweep_charts(results, mean_rows(results), [BOTH])
    keys = line_keys(results, mean_rows(results), [BOTH])
    names = ["p50", "p99"] if len(systems) == 1 else ["one p50", "one p99", "two p50", "two p99"]
    assert [curve.name for curve in chart.curves] == [name for _, name in keys.values()] == names
    assert [(curve.kind, curve.name) for curve in chart.curves] == list(keys.values())
    assert len({kind for kind, _ in keys.values()}) == len(names)
    assert chart.y.label == "TTFT, ms"
    assert chart.y.high >= max(chart.curves[1].ys)
    assert [text for _, text in chart.x.ticks] == ["512", "1 024", "16 384"]


def test_line_charts_of_a_sweep_are_one_picture_with_all_that_was_asked_for(tmp_path) -> None:
    write_sweep(tmp_path, sweep_of(("one",), BOTH))
    texts = "".join(ElementTree.parse(tmp_path / "figures" / "charts.svg").getroot().itertext())
    assert {"p50", "p99", "16 384"} <= set(re.findall(r"p\d\d|16 384", texts))
    table = (tmp_path / "figures" / "1-lines.csv").read_text()
    assert table.startswith("budget,system,p50_ttft_ms,p50_ttft_ms.low,p50_ttft_ms.high,p99_ttft_ms,")


def test_results_that_are_asked_for_alone_are_drawn_too(tmp_path) -> None:
    """Means are kept of usual results; a figure of another one has its means all the same."""
    plot = Plot("lines", "budget", "p99_own_ms")
    results = sweep_of(("one",), plot)
    rows = tuple({**row, "p99_own_ms": 7.0} for row in results.rows)
    write_sweep(tmp_path, replace(results, rows=rows))
    assert len((tmp_path / "figures" / "1-lines.csv").read_text().splitlines()) == 4


def test_the_largest_of_all_gaps_has_not_the_error_of_a_mean() -> None:
    assert error_of("p99_itl_ms") == ("tpot", False)
    assert error_of("max_itl_ms") is None


def test_fleets_are_drawn_by_slack_and_price_with_their_difference_to_the_best() -> None:
    rows = [
        {"fleet": "2 l4", "usd_per_hour": 2.0, "is_met": True, "slack": 1.5, "misses": ""},
        {"fleet": "1 l4", "usd_per_hour": 1.0, "is_met": False, "slack": 0.5, "misses": "TTFT"},
        {"fleet": "no result", "usd_per_hour": 0.5, "is_met": False, "slack": None, "misses": "does not fit"},
    ]
    (chart,) = fleet_charts(rows, "2 l4")
    met, missed = chart.dots
    assert (met.points, missed.points) == ([(1.5, 2.0)], [(0.5, 1.0)])
    assert "-1.00 $/h against the best" in missed.labels[0]
    assert fleet_charts(rows[2:], "2 l4") == ()


VALUES = st.dictionaries(st.tuples(st.sampled_from([1, 2, 4]), st.sampled_from(["8 Gbit/s", "16 Gbit/s"])), FIGURES,
                         min_size=1)  # fmt: skip


@given(VALUES)
def test_heat_maps_have_a_cell_for_each_combination_with_its_value_and_colour(values) -> None:
    rows = [{"rate": rate, "link": link, "system": "a", "p99_ttft_ms": value} for (rate, link), value in values.items()]
    results = SweepResults("s", None, ("rate", "link"), (0,), "p99_ttft_ms", False, False, tuple(rows), (), None, Slo())
    (one,) = heat_maps(results, rows, Plot("heatmap", "rate", "link"), "heat")
    cells = list(one.cells())
    places = list(product(one.rows, one.columns))
    assert len(cells) == len(places) == len({(cell.x, cell.y) for cell in cells})
    assert list(one.columns) == sorted(one.columns, key=int)
    assert list(one.rows) == sorted(one.rows, key=lambda text: -int(text.split()[0]))
    for (link, rate), cell in zip(places, cells, strict=True):
        value = values.get((int(rate), link))
        assert cell.text == ("–" if value is None else shown(value))
        assert (cell.depth is None) is (value is None)
        assert f"rate: {rate}\nlink: {link}\n" in cell.tip
    depths = [(values[int(rate), link], cell.depth) for (link, rate), cell in zip(places, cells, strict=True)
              if cell.depth is not None]  # fmt: skip
    assert [depth for _, depth in sorted(depths)] == sorted(depth for _, depth in depths)
    assert all(0 <= depth <= 1 for _, depth in depths)


def test_the_page_of_a_sweep_has_its_heat_maps_as_texts_and_no_pictures(tmp_path) -> None:
    plot = Plot("heatmap", "budget", "rate", "p99_ttft_ms")
    rows = tuple(
        {"point": point, "budget": budget, "rate": rate, "seed": 0, "run": "", "system": system,
         "saturation": "STABLE", "p50_ttft_ms": 1.0, "p99_ttft_ms": budget * rate + 0.25}
        for system in ("one", "two") for point, (budget, rate) in enumerate(product((512, 1024), (1, 2, 4)))
    )  # fmt: skip
    results = SweepResults("s", None, ("budget", "rate"), (0,), "p50_ttft_ms", False, False, rows, (), (plot,), Slo())
    write_sweep(tmp_path, results)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for row in rows:
        assert f">{shown(row['p99_ttft_ms'])}</text>" in page
    assert page.count('<figure class="chart heat"') == 2
    assert "<image" not in page
    assert "<img" not in page
    assert (tmp_path / "figures" / "1-heatmap.csv").exists()
