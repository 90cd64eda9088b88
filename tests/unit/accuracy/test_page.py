"""The page of accuracy: complete in itself, every figure from the results, names escaped, also of few or no points."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from made_up_points import many, result

from helixsim.accuracy import prototype
from helixsim.accuracy.cells import METRICS
from helixsim.accuracy.errors import error, errors, summarised
from helixsim.accuracy.markdown import markdown
from helixsim.accuracy.page import AccuracyPage, render, share_text, shown, write_page
from helixsim.accuracy.point_charts import breakdown, common_errors, heat_map, scatter
from helixsim.accuracy.points import Inexpressible
from helixsim.papers.helix.cells import Cell, Figures
from helixsim.papers.helix.fidelity import CellResult

VOID = {"meta", "br", "link", "img", "input", "hr"}


class Tree(HTMLParser):
    """Checks that elements close in their order; collects tags, attributes, texts and identifiers."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open[-1] == tag, f"</{tag}> closes <{self.open[-1]}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def values(self, name: str) -> list[str]:
        return [value for _, key, value in self.attributes if key == name]


PAGES = {
    "many points": AccuracyPage(
        many(200), [Inexpressible("a", "model not known"), Inexpressible("b", "model not known")]
    ),
    "one point": AccuracyPage([result(1.1)]),
    "one exact point": AccuracyPage([result(1.0, operators=1.0, static=1.0)]),
    "failed points only": AccuracyPage([result(None), result(None)]),
    "nothing": AccuracyPage(),
}


@pytest.fixture(params=PAGES.values(), ids=PAGES.keys())
def page(request: pytest.FixtureRequest) -> AccuracyPage:
    return request.param


def test_the_page_is_one_document_that_fetches_nothing(page: AccuracyPage) -> None:
    text = render(page)
    tree = Tree(text)
    assert tree.tags["html"] == tree.tags["body"] == tree.tags["h1"] == 1
    for forbidden in ("http://", "https://", "@import", "url(", "//cdn", "fetch(", "XMLHttpRequest"):
        assert forbidden not in text
    assert not {"link", "img", "iframe", "object", "embed"} & set(tree.tags)
    assert not tree.values("src")
    identifiers = tree.values("id")
    assert len(identifiers) == len(set(identifiers))
    for href in tree.values("href"):
        assert href.removeprefix("#") in identifiers
    for labels in tree.values("aria-labelledby"):
        assert set(labels.split()) <= set(identifiers)


def test_charts_have_titles_and_text_as_text(page: AccuracyPage) -> None:
    tree = Tree(render(page))
    pictures = sum(1 for tag, name, value in tree.attributes if (tag, name, value) == ("svg", "role", "img"))
    assert tree.tags["desc"] == tree.tags["title"] - 1 == pictures
    assert bool(pictures) == any(error(one, "tpot") is not None for one in page.results)
    assert tree.tags["style"]
    assert "prefers-color-scheme: dark" in render(page)


def test_a_dot_for_each_point_and_metric_in_the_order_of_the_hover_data() -> None:
    results = many(60)
    view = shown(AccuracyPage(results))
    kinds = {kind for kind, _ in view["engine_legend"]}
    assert len(kinds) == 3
    for chart in view["scatters"]:
        assert sum(len(group.points) for group in chart.dots) == len(results)
    names, points = view["hover"]["names"], view["hover"]["points"]
    assert len(points) == len(results)
    seen: Counter[int] = Counter()
    for row, one in zip(points, results, strict=True):
        group = view["scatters"][0].dots[row[0]]
        measured, predicted = group.points[seen[row[0]]]
        seen[row[0]] += 1
        assert names[row[1]] == one.point.gpu
        assert measured == one.point.tpot_ms
        assert row[9] == pytest.approx(measured, rel=1e-3)
        assert row[10] == pytest.approx(predicted, rel=1e-3) == pytest.approx(one.analytic.tpot_ms, rel=1e-3)
    text = render(AccuracyPage(results))
    embedded = re.search(r'<script type="application/json" id="points">(.*?)</script>', text, re.DOTALL)
    assert embedded is not None
    assert json.loads(embedded[1]) == view["hover"]


def test_figures_are_those_of_the_results() -> None:
    results = many(300)
    missing = [Inexpressible("x", "model not known")] * 100
    view = shown(AccuracyPage([*results, result(None)], missing))
    sizes = np.abs([one.analytic.tpot_ms / one.point.tpot_ms - 1 for one in results])
    tiles = {tile["title"]: tile for tile in view["tiles"]}
    assert tiles["TPOT"]["figure"] == share_text(float(np.median(sizes)))
    assert share_text(float(np.quantile(sizes, 0.9))) in tiles["TPOT"]["text"]
    assert tiles["Coverage"]["figure"] == share_text(300 / 401)
    assert dict(view["reasons"]) == {"model not known": 100, "no memory for one request": 1}
    text = render(AccuracyPage([*results, result(None)], missing))
    for tile in tiles.values():
        assert tile["figure"] in text


def test_predictors_are_compared_on_the_points_that_all_of_them_predict() -> None:
    results = many(200)
    common = common_errors(results, "tpot")
    count = sum(one.operators is not None and one.static is not None for one in results)
    assert {len(found) for found in common.values()} == {count}
    rows = shown(AccuracyPage(results))["predictors"]
    assert [row[1] for row in rows] == [200, count, count, count]
    assert rows[2][2][0] == summarised(common["operators"])
    without = [result(1.2), result(0.9)]
    assert list(common_errors(without, "tpot")) == ["analytic"]
    assert len(shown(AccuracyPage(without))["predictors"]) == 1


@pytest.mark.parametrize("metric", METRICS)
def test_cells_and_rows_hold_every_point_once(metric: str) -> None:
    results = many(250)
    found = heat_map(results, metric)
    cells = [cell for _, row in found.rows for cell in row if cell is not None]
    assert sum(cell.count for cell in cells) == len(results)
    assert len(found.columns) == 9
    for of in (lambda one: one.point.gpu, lambda one: str(one.point.concurrency)):
        rows = breakdown(results, of)
        assert sum(row.summaries[0].count for row in rows if row.summaries[0]) == len(results)
        assert all(row.range[0] <= row.range[1] for row in rows if row.range)


def test_bands_are_tested_with_each_gpu_and_family_left_out() -> None:
    results = many(120)
    (gpus, of_gpus), (families, of_families) = shown(AccuracyPage(results))["bands"]
    assert (gpus, families) == ("GPU", "family of the model")
    for rows in (of_gpus, of_families):
        *parts, (name, count, shares) = rows
        assert (name, count) == ("all", len(results))
        assert sum(one[1] for one in parts) == count
        assert shares[0] == pytest.approx(sum(one[1] * one[2][0] for one in parts) / count)
    assert shown(AccuracyPage(many(20)))["bands"] == []


def test_the_worst_points_come_first_in_either_direction_with_their_cause() -> None:
    results = [*many(100), result(3.0, id="slow", gpu="b300"), result(0.25, id="fast", gpu="gb200")]
    page = AccuracyPage(results, cause_of=lambda one: "a lost dashboard" if one.point.id == "fast" else None)
    first, second, *_ = shown(page)["worst"]
    assert "gb200" in first["setting"]
    assert first["cause"] == "a lost dashboard"
    assert "b300" in second["setting"]
    assert second["cause"] == "not known"
    assert second["error"] == pytest.approx(2.0)
    assert "a lost dashboard" in render(page)


def test_names_are_escaped_everywhere() -> None:
    bad = "</script><script>alert(1)</script>&\x1b\u202e"
    page = AccuracyPage(
        [result(1.5, weights=bad, engine_version=bad)],
        [Inexpressible("a", bad)],
        cause_of=lambda _: bad,
        source=bad,
    )
    text = render(page)
    Tree(text)
    assert "<script>alert" not in text
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_cells_of_the_prototype_are_shown_with_their_errors() -> None:
    cell = Cell("70b-<x>", "llama-2-70b", "offline", ("l4",), (), Figures(100, 2, 0.5), Figures(120), True, "")
    found = prototype.shown([CellResult(cell, Figures(110, 1.5, 0.5), 0, 0.0), CellResult(cell, Figures(), 0, 0.0)])
    assert found is not None
    throughput = found["summary"][0]
    assert (throughput["cells"], throughput["median"]) == (1, pytest.approx(0.1))
    assert [error for *_, error in found["rows"][0][1]] == [pytest.approx(0.1), pytest.approx(-0.25), 0.0]
    assert [error for *_, error in found["rows"][1][1]] == [None] * 3
    text = render(AccuracyPage(prototype=found))
    assert Tree(text).tags["desc"] == 3
    assert "70b-&lt;x&gt;: measured 100, simulated 110</title>" in text
    assert prototype.shown([]) is None


def test_points_without_a_measured_figure_or_a_positive_prediction_have_no_error() -> None:
    assert error(result(1.2), "tpot") == pytest.approx(0.2)
    assert error(result(math.nan), "tpot") is None
    assert error(result(float("inf")), "tpot") is None
    assert errors([result(None)], "tpot") == []
    assert summarised([]) is None
    assert scatter([], "tpot", {}) is None


@pytest.mark.parametrize(
    ("value", "sign", "text"),
    [(0.0, True, "0.0"), (-0.0001, True, "0.0"), (0.0994, False, "9.9"), (0.0996, False, "10"), (-0.2, True, "−20"),
     (1.5, True, "+150")],
)  # fmt: skip
def test_shares_as_text(value: float, sign: bool, text: str) -> None:
    assert share_text(value, sign) == f"{text}\u00a0%"
    assert share_text(None) == "–"


def test_the_file_is_the_page(tmp_path: Path) -> None:
    write_page(tmp_path / "a.html", PAGES["one point"])
    assert (tmp_path / "a.html").read_text(encoding="utf-8") == render(PAGES["one point"])


def test_the_document_has_the_figures_of_the_page(page: AccuracyPage) -> None:
    view, text = shown(page), markdown(page)
    lines = text.splitlines()
    for name, _, found in view["predictors"]:
        (line,) = [line for line in lines if line.startswith(f"| {name} |")]
        assert f"| {share_text(found[0].median)} / ".replace("\u00a0%", "") in line
    for reason, count in view["reasons"]:
        assert f"| {reason} | {count} |" in lines
    assert all(row.count("|") == rows[0].count("|") for rows in _tables(lines) for row in rows)


def _tables(lines: list[str]) -> list[list[str]]:
    tables: list[list[str]] = [[]]
    for line in lines:
        if line.startswith("|"):
            tables[-1].append(line)
        elif tables[-1]:
            tables.append([])
    return [table for table in tables if table]


APART = {
    "prefill_workers": 2, "prefill_tensor_parallel": 4, "decode_workers": 3, "tensor_parallel": 8, "concurrency": 48,
    "gpu": "gb200",
}  # fmt: skip


def test_runs_with_prefill_and_decode_apart_have_tables_of_their_own():
    apart = [result(factor, id=f"apart-{factor}", **APART) for factor in (1.5, 0.8)]
    page = AccuracyPage(
        many(30), apart=[*apart, result(None, **APART)], apart_rows=(3, 7), apart_left_out={"for a reason": 4}
    )
    view = shown(page)["apart"]
    assert "2 measured serving runs on 1 GPU" in view["about"]
    assert "3 of 7 rows" in view["about"]
    count, (tpot, *_) = view["all"]
    assert (count, tpot.median) == (2, pytest.approx(0.35))
    assert view["worst"][0]["setting"].startswith("llama-3.1-70b fp8, 2 of 4 prefill, 3 of 8 × gb200 decode")
    tree = Tree(render(page))
    assert "apart" in tree.values("id")
    text = markdown(page)
    assert "### Prefill and decode on different GPUs" in text
    assert "| 4 | for a reason |" in text
    assert "| requests in flight per instance: 9-32 | 2 |" in text
    alone = AccuracyPage(apart=apart)
    assert shown(alone)["lead"].startswith("runs with prefill and decode on different GPUs")
    Tree(render(alone))
    assert shown(AccuracyPage(many(3)))["apart"] is None
