"""Figures beside the paper's: what is drawn is what the rows say."""

from __future__ import annotations

import pytest

from helixsim.papers.helix import paper_figures, paper_studies
from helixsim.papers.helix.paper_page import cell_text
from helixsim.report.style import styled

PERCENTILES = {"p5": 1.0, "p25": 2.0, "p50": 3.0, "p75": 4.0, "p95": 9.0}


@pytest.fixture(autouse=True)
def _style():
    with styled():
        yield


def drawn(figure):
    """Axes with a drawing, after everything has been laid out."""
    figure.canvas.draw()
    return figure.get_axes()


def bar(method, column, value, metric="throughput", low=None, high=None):
    return {"panel": "(a)", "metric": metric, "method": method, "column": column, "value": value, "low": low,
            "high": high, **PERCENTILES}  # fmt: skip


def test_bars_have_the_heights_of_their_rows_and_latency_comes_last():
    rows = [
        bar("helix", "as published", 0.5, metric="prompt"),
        bar("helix", "published", 100.0),
        bar("helix", "measured", 90.0),
        bar("helix", "fair", 120.0, low=110.0, high=130.0),
        bar("swarm", "fair", 60.0),
    ]
    throughput, prompt = drawn(paper_figures.comparison(rows, {"helix": "Helix", "swarm": "Swarm", "petals": "Petals"}))
    assert sorted(patch.get_height() for patch in throughput.patches) == [60.0, 100.0, 120.0]
    assert [text.get_text() for text in throughput.get_xticklabels()] == ["Helix", "Swarm"]
    assert 90.0 in [line.get_ydata()[0] for line in throughput.get_lines() if len(line.get_ydata()) == 1]
    assert prompt.get_yscale() == "log"
    assert any(list(line.get_ydata()) == [3.0, 3.0] for line in prompt.get_lines())


def test_load_curves_pass_through_their_points():
    rows = [
        {"cluster": "c", "method": method, "offered_rps": rate, "output_tokens_per_s": 10 * rate, "low": 9 * rate,
         "high": 11 * rate, "goodput_rps": rate / 2, "goodput_least": None, "goodput_most": None}
        for method in ("helix", "swarm") for rate in (1.0, 2.0)
    ]  # fmt: skip
    served, good = drawn(paper_studies.load_curves(rows, {"helix": "Helix", "swarm": "Swarm"}))
    assert [list(line.get_ydata()) for line in served.get_lines()] == [[10.0, 20.0]] * 2
    assert [list(line.get_ydata()) for line in good.get_lines()] == [[0, 2.0]] + [[0.5, 1.0]] * 2


def proxy_row(system, flow, served):
    hops = {"mean_hops": 4.0, "max_hops": 4}
    limits = {"low": served - 1, "high": served + 1}
    return {"cluster": "c", "system": system, "max_flow_tokens_per_s": flow, "tokens_per_s": served, **hops, **limits}


def test_placements_are_points_or_pairs_of_bars():
    rows = [
        proxy_row("paper-helix", 100.0, 80.0),
        proxy_row("flow-4-hops", 120.0, 90.0),
        proxy_row("swarm", 50.0, 45.0),
    ]
    (cloud,) = drawn(paper_studies.proxy_cloud(rows))
    points = {(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in cloud.get_lines()}
    assert {(100.0, 80.0), (120.0, 90.0), (50.0, 45.0)} <= points
    flow, served = drawn(paper_studies.proxy_pairs(rows, {"c": ("paper-helix", "flow-4-hops")}))
    assert [patch.get_height() for patch in flow.patches] == [100.0, 120.0]
    assert [patch.get_height() for patch in served.patches] == [80.0, 90.0]


def test_searches_are_steps_and_bounds_are_ours_only():
    def line(search, source, seconds, objective, bound):
        return {"search": search, "source": source, "seconds": seconds, "objective_tokens_per_s": objective,
                "bound_tokens_per_s": bound}  # fmt: skip

    rows = [
        line("ours", "helixsim", 0.0, 5.0, 9.0),
        line("ours", "helixsim", 2.0, 8.0, 8.5),
        line("s", "published", 3.0, 7.0, None),
    ]
    (axis,) = drawn(paper_studies.draw_searches(rows))
    steps = [list(each.get_ydata()) for each in axis.get_lines()]
    assert [5.0, 8.0] in steps
    assert [9.0, 8.5] in steps
    assert [7.0] in steps
    assert axis.get_xscale() == "log"


def test_nodes_show_their_layers_and_stays():
    rows = [
        {"placement": name, "node": f"l4-{i}", "kind": "l4", "first_layer": 4 * i, "end_layer": 4 * i + 4, "busy": 0.5,
         "stay_s": 0.1 * (i + 1), "published_stay_s": 2.0 if i else None}
        for name in ("one", "two") for i in (1, 0)
    ]  # fmt: skip
    one, two = drawn(paper_studies.layers_of_nodes(rows))
    assert [(patch.get_x(), patch.get_width()) for patch in one.patches] == [(0, 4), (4, 4)]
    assert [label.get_text() for label in two.get_yticklabels()] == ["l4-0", "l4-1"]
    first, second = drawn(paper_studies.stays_at_nodes(rows))
    assert [patch.get_height() for patch in first.patches] == pytest.approx([0.2, 0.1])
    assert [list(line.get_ydata()) for line in first.get_lines()] == [[2.0]]
    assert not second.get_lines()


@pytest.mark.parametrize(("value", "text"), [(None, "–"), ("", "–"), (0.12345, "0.123"), (1234.5, "1234"), (7, "7")])
def test_values_in_tables(value, text):
    assert cell_text(value) == text
