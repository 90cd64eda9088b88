"""Parts of the page of a run: charts one can read values from, diagrams, map, waterfall and lives of requests."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from helixsim.report import network_map as maps
from helixsim.report import placement_view as views
from helixsim.report import whatif_rows
from helixsim.report.html import build_report, node_type_kinds
from helixsim.report.overview import overview
from helixsim.report.request_life import lives
from helixsim.report.run_charts import latency_charts, node_series, node_type_charts, time_charts
from helixsim.report.screen import screen_text
from helixsim.report.waterfall import waterfall
from helixsim.results.columns import texts
from helixsim.results.run import Run, StoredTables
from helixsim.results.runset import RunSet, WhatIf
from helixsim.units import NS_PER_S
from helixsim.units import number as number_text

VOID = {"meta", "link", "br", "hr", "input", "img", "path", "rect", "circle", "line"}


@pytest.fixture(scope="module")
def data(run_dir: Path) -> RunSet:
    return RunSet.load(run_dir)


class Page(HTMLParser):
    """The elements of a page with their attributes, and whether its tags are balanced."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag in {"path", "rect", "circle", "line"}:
            return
        while self.open[-1] in {"p", "dt", "dd", "li"} and self.open[-1] != tag:
            self.open.pop()
        assert self.open.pop() == tag


def test_tags_are_balanced_and_every_picture_has_a_name(run_dir: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(run_dir, tmp_path / "run")
    text = build_report(tmp_path / "run").read_text(encoding="utf-8")
    page = Page(text)
    pictures = [attrs for tag, attrs in page.found if tag == "svg" and attrs.get("aria-hidden") != "true"]
    assert len(pictures) >= 3 + 7 + 2 * 4
    for attrs in pictures:
        assert attrs.get("aria-labelledby") or attrs.get("aria-label")
    scrolled = [attrs for tag, attrs in page.found if attrs.get("class") == "scroll"]
    assert scrolled
    assert all(attrs.get("tabindex") == "0" and attrs.get("aria-label") for attrs in scrolled)
    targets = {attrs["href"][1:] for tag, attrs in page.found if tag == "a" and attrs["href"].startswith("#")}
    assert targets <= {attrs.get("id") for _, attrs in page.found}
    assert "nan" not in re.sub(r"[a-z-]*nan[a-z]+|[a-z]+nan[a-z]*", "", text)


def test_values_of_charts_are_those_that_are_drawn(data: RunSet) -> None:
    charts = [*latency_charts(data), *time_charts(data), *node_type_charts(data)]
    for chart in charts:
        found = json.loads(chart.values())
        assert [curve["name"] for curve in found["curves"]] == [curve.name for curve in chart.curves]
        for curve, drawn in zip(found["curves"], chart.curves, strict=True):
            assert curve["xs"] == pytest.approx(list(drawn.xs), rel=1e-4)
            assert curve["ys"] == pytest.approx(list(drawn.ys), rel=1e-4)
            assert all(chart.x.low - 1e-9 <= x <= chart.x.high * (1 + 1e-9) for x in drawn.xs)
            assert all(math.isnan(y) or chart.y.low <= y <= chart.y.high * (1 + 1e-9) for y in drawn.ys)


def test_distributions_rise_to_one_and_hold_their_objective(data: RunSet) -> None:
    for chart in latency_charts(data):
        for curve in chart.curves:
            assert (np.diff(curve.ys) >= 0).all()
            assert curve.ys[-1] == 1
        if chart.name != "cdf-itl":
            (guide,) = chart.guides
            assert 0 <= chart.x.share(guide.xs[0]) <= 1


def test_rates_over_time_hold_all_tokens(data: RunSet) -> None:
    rates = next(chart for chart in time_charts(data) if chart.name == "time-output-rate")
    for curve in rates.curves:
        tokens = sum(y * (b - a) for y, a, b in zip(curve.ys, curve.xs, curve.xs[1:], strict=False))
        assert tokens == pytest.approx(int(data[curve.name].series["output_tokens"].iloc[-1]))


def test_batches_over_time_are_decoded_tokens_over_iterations(data: RunSet) -> None:
    sizes = next(chart for chart in time_charts(data) if chart.name == "time-batch-rate")
    for curve in sizes.curves:
        rows = data[curve.name].node_series
        last = rows[rows["time_ns"] == rows["time_ns"].max()]
        assert np.mean(curve.ys) == pytest.approx(last["decode_tokens"].sum() / last["batches"].sum(), rel=0.02)


def test_node_series_keep_times_and_nodes(data: RunSet) -> None:
    run = data["helix"]
    found, rows = node_series(run, "kv_used_share"), run.node_series
    wide = rows.pivot_table(index="time_ns", columns="node", values="kv_used_share", sort=False)
    assert np.allclose(found.values, wide.to_numpy())
    assert np.allclose(found.time_s * NS_PER_S, wide.index.to_numpy())
    assert list(found.node_types) == rows["node_type"].iloc[: wide.shape[1]].tolist()


def test_marks_of_the_overview_are_those_of_the_objectives(data: RunSet) -> None:
    table = overview(data)
    column = table.heads.index("TTFT p99, s")
    late = 0
    for name, cells in table.rows:
        (own,) = (one for one in data.verdict.systems[name].objectives if one.name == "TTFT")
        late += own.figures.reached_s is None
        assert cells[column].kind == ("good" if own.figures.is_met else "bad")
        assert cells[column].text == f"{number_text(own.figures.reached_s) if own.figures.reached_s else '∞'} " + (
            "✓" if own.figures.is_met else "✗"
        )
    assert 0 < late < len(data)


def test_a_percentile_is_the_same_in_all_tables(data: RunSet) -> None:
    table = overview(data)
    shown = {name: cells[table.heads.index("TTFT p99, s")].text.split()[0] for name, cells in table.rows}
    variants = [WhatIf("busier", (), {name: "helix" for name in data if name != "helix"})]
    rows = whatif_rows.rows(replace(data, whatif=tuple(variants)))
    assert [row[4].split()[0] for row in rows] == list(shown.values())
    text = screen_text(data, width=100)
    lines = [re.search(f"^{re.escape(name)} .*$", text, re.MULTILINE)[0] for name in data]
    assert [re.search("([0-9.∞]+) [✓✗]", line)[1] for line in lines] == list(shown.values())


def test_a_placement_shows_each_node_once(data: RunSet) -> None:
    run = data["helix"]
    view = views.placement_view(run, node_type_kinds(data))
    layers = run.placement_document["layers"]
    names = [name for group in view.groups for bar in group.bars for name in bar.names.split(", ")]
    assert sorted(names) == sorted(node for node, held in layers.items() if held is not None)
    assert sum(count for _, count, _, _ in view.unused) == sum(held is None for held in layers.values())
    for group in view.groups:
        for bar in group.bars:
            assert 0 <= bar.left < bar.left + bar.width <= 100 + 1e-9


def test_a_waterfall_goes_from_each_value_to_the_next_and_ends_at_what_was_simulated(data: RunSet) -> None:
    for run in data.values():
        steps = waterfall(run)
        assert steps[0].kind == steps[-1].kind == "total"
        assert steps[-1].text.replace(" ", "") == f"{run.summary.throughput.total_tokens_per_s:.0f}"
        edge = steps[0].left + steps[0].width
        for step in steps[1:-1]:
            ends = step.left, step.left + step.width
            assert any(end == pytest.approx(edge) for end in ends)
            edge = min(ends) if step.kind == "loss" else max(ends)
        assert max(step.left + step.width for step in steps) == pytest.approx(100)


def test_a_map_holds_all_bytes_of_the_links(data: RunSet) -> None:
    run = data["helix"]
    found = maps.network_map(run, node_type_kinds(data))
    assert {(link.source, link.target) for link in found.links} == set(
        zip(run.links["src"], run.links["dst"], strict=True)
    )
    total = sum(float(row[5].replace(" ", "")) for row in found.between_sites)
    assert total == pytest.approx(float(run.links["bytes"].sum()) / 1e9, rel=0.02)
    boxes = [(place.x, place.y, place.x + place.width, place.y + found.box_height) for place in found.places]
    for number, (left, top, right, bottom) in enumerate(boxes):
        assert 0 <= left < right <= found.width
        assert 0 <= top < bottom <= found.height
        assert all(right <= a or c <= left or bottom <= b or d <= top for a, b, c, d in boxes[:number])


@pytest.mark.parametrize("regions", [1, 3])
def test_diagrams_of_a_thousand_nodes_stay_small(data: RunSet, regions: int) -> None:
    run = _wide(data["helix"], 1000, regions)
    kinds = {"a100": "n1"}
    view = views.placement_view(run, kinds)
    assert sum(len(group.bars) for group in view.groups) <= views.MOST_BARS
    held = sum(int(bar.label.split(" × ")[0]) for group in view.groups for bar in group.bars)
    assert held == 1000
    found = maps.network_map(run, kinds)
    assert len(found.places) <= maps.MOST_PLACES + 1
    assert len(found.links) <= maps.MOST_LINKS
    assert len(found.sites) == regions
    assert len(found.between_sites) == regions


def test_of_many_unequal_pipelines_each_shown_has_its_part(data: RunSet) -> None:
    run = _wide(data["helix"], 900, 1)
    document = dict(run.placement_document)
    names = list(document["layers"])
    document["replicas"] = [names[first : first + 300] for first in range(0, 900, 300)]
    document["layers"] = {
        name: [number % 300 // (1 + number // 300), number % 300 // (1 + number // 300) + 1]
        for number, name in enumerate(names)
    }
    run.__dict__["placement_document"] = {**document, "num_layers": 300}
    view = views.placement_view(run, {"a100": "n1"})
    assert [len(group.bars) for group in view.groups] == [views.MOST_BARS // 3] * 3
    hidden = 300 + 150 + 100 - 3 * (views.MOST_BARS // 3)
    assert view.left_out.startswith(f"{hidden} further groups")


def _wide(run: Run, nodes: int, regions: int) -> Run:
    """Return a run on pipelines of four equal nodes."""
    names = [f"a100-{number}" for number in range(nodes)]
    document = {
        **run.placement_document,
        "num_layers": 40,
        "layers": {name: [10 * (number % 4), 10 * (number % 4) + 10] for number, name in enumerate(names)},
        "replicas": [names[first : first + 4] for first in range(0, nodes, 4)],
        "nodes": [
            {"node": name, "node_type": "a100", "region": f"site-{number // 4 % regions}", "kv_tokens": 1000,
             "flow_tokens_per_s": 10.0, "capacity_tokens_per_s": 20.0}
            for number, name in enumerate(names)
        ],
    }  # fmt: skip
    pairs = [(names[number], names[number + 1]) for number in range(nodes - 1) if number % 4 != 3]
    links = {"src": texts(src for src, _ in pairs), "dst": texts(dst for _, dst in pairs)}
    figures = {
        "bandwidth_bps": 1e9,
        "messages": 10,
        "bytes": 1e6,
        "mean_bps": 1e4,
        "busy_share": 0.5,
        "mean_wait_ns": 9,
    }
    links |= {name: np.full(len(pairs), value) for name, value in figures.items()}
    wide = replace(run)
    held = {"node": texts(names), "busy_share": np.full(nodes, 0.5)}
    wide.__dict__.update(placement_document=document, _tables={"links": links, "nodes": held})
    return wide


def test_the_parts_of_a_life_are_its_time(data: RunSet) -> None:
    run = data["helix"]
    shown = lives(run)
    assert shown
    table = run.requests.set_index("request_id")
    longest = max(one.e2el_s or 0.0 for one in shown)
    for one in shown:
        row = table.loc[one.number]
        if one.e2el_s is None:
            continue
        assert one.e2el_s == pytest.approx((row["finish_ns"] - row["arrival_ns"]) / NS_PER_S)
        unit = sum(part.width for part in one.phases) / one.e2el_s
        assert unit * longest <= 100 + 1e-6
        assert sum(part.width for part in one.spent) == pytest.approx(sum(part.width for part in one.phases))
    assert max(one.ttft_s or 0.0 for one in shown) == pytest.approx(
        float((table["first_token_ns"] - table["arrival_ns"]).max()) / NS_PER_S
    )


def test_lives_are_those_in_memory_too(fake_runs: RunSet, data: RunSet) -> None:
    assert isinstance(data["swarm"].source, StoredTables)
    assert lives(fake_runs["swarm"]) == lives(data["swarm"])
