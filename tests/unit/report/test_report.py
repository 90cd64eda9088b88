"""Files, tables, figures and page of a run directory."""

from __future__ import annotations

import argparse
import html
import json
import re
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helixsim.cli.report import add_parser
from helixsim.errors import DataError
from helixsim.report.figures import latency_cdfs, throughput_bars, write_figures
from helixsim.report.html import build_report
from helixsim.report.selection import race_rows, selection_sentences
from helixsim.report.style import styled, svg_bytes
from helixsim.report.tables import comparison_text, kv_text, placement_text, plain_table
from helixsim.results.files import file_stem
from helixsim.results.placement_json import placement_document
from helixsim.results.runset import RunSet
from helixsim.runtime.manifest import write_manifest
from helixsim.units import number


@pytest.fixture(scope="module")
def data(run_dir: Path):
    return RunSet.load(run_dir)


def test_request_table_has_a_row_per_request_and_integer_times(fakes, run_dir: Path) -> None:
    run = fakes.queue_run().run
    text = (run_dir / "requests" / "helix.csv").read_text()
    assert "." not in text.split("\n", 2)[1].replace("a100-0[0:8]", "")
    table = pd.read_csv(run_dir / "requests" / "helix.csv")
    assert table["request_id"].tolist() == run.requests.request_id.tolist()
    assert table["status"].value_counts()["finished"] == (run.requests.status == 2).sum()
    assert table["finish_ns"].isna().sum() == (run.requests.finish_ns < 0).sum()
    done = table[table["status"] == "finished"]
    spent = done["queue_ns"] + done["compute_ns"] + done["network_ns"]
    assert (spent == done["finish_ns"] - done["arrival_ns"]).all()
    assert done["route"].str.fullmatch(r"a100-\d\[0:8\] t4-\d\[8:16\]").all()


def test_summary_is_strict_json_and_names_all_systems(run_dir: Path) -> None:
    def refuse(token: str) -> None:
        raise AssertionError(token)

    document = json.loads((run_dir / "summary.json").read_text(), parse_constant=refuse)
    assert list(document["systems"]) == ["helix", "swarm", "petals", "a/b <i>"]


def test_placement_document_covers_the_fleet_and_the_model(fakes) -> None:
    fleet = fakes.fleet()
    document = placement_document(fakes.placement(fleet), fakes.plan(fleet), fleet)
    assert list(document["layers"]) == [node.id for node in fleet.cluster.nodes]
    assert document["layers"]["t4-3"] is None
    held = [layer for layers in document["layers"].values() if layers for layer in range(*layers)]
    assert set(held) == set(range(document["num_layers"]))
    assert json.loads(json.dumps(document, allow_nan=False)) == document


def test_former_names_of_columns_are_read(run_dir: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(run_dir, old)
    for path in (old / "nodes.csv", old / "node_series.csv", old / "placements" / "helix.json"):
        text = path.read_text(encoding="utf-8")
        assert "node_type" in text
        path.write_text(text.replace("node_type", "kind"), encoding="utf-8")
    ours, theirs = RunSet.load(run_dir), RunSet.load(old)
    assert ours.frame("nodes").equals(theirs.frame("nodes"))
    assert ours.frame("node_series").equals(theirs.frame("node_series"))
    assert ours["helix"].placement_document == theirs["helix"].placement_document


def test_a_race_of_an_older_version_is_left_out() -> None:
    former = {
        "name": "blocks-3", "routing": "flow_weighted", "nodes": 4, "share": 0.9, "in_system": 5.0, "ttft_p95_s": 1.0,
        "tpot_p95_s": 0.1, "output_tokens_per_s": 9.0, "round": 1, "is_baseline": False,
    }  # fmt: skip
    notes = {"race": [former], "chosen": "blocks-3", "idle": {"t4-0": "too small"}}
    assert selection_sentences(notes) == ["Idle, too small: t4-0."]
    assert race_rows(notes) == []


def test_tables_fit_their_width_and_show_every_system(data) -> None:
    for width in (80, 100, 140):
        text = comparison_text(data, width=width)
        assert max(map(len, text.splitlines())) <= width
        for name in data:
            assert text.count(name) >= 2
    assert "OVERLOADED" in text
    assert "\x1b" not in text
    assert "\x1b" in comparison_text(data, color=True)


def test_four_systems_share_one_table_at_a_hundred_columns(data) -> None:
    assert comparison_text(data, width=100).count("prompt + output tokens/s  ") == 1


def test_systems_that_do_not_fit_beside_each_other_are_rows(data) -> None:
    """No table is split: in each section every figure is named once."""
    text = comparison_text(data, width=80)
    assert text.count("relative") == text.count("OVERLOADED") == 1
    assert re.search(r"^helix +[\d ±]+", text, re.MULTILINE)


def test_placement_table_lists_nodes_by_layer(data) -> None:
    text = placement_text("helix", data["helix"].placement_document)
    assert max(map(len, text.splitlines())) <= 100
    assert re.search(r"a100-0 +a100 +0–7 +800 +2 000 +3 000 +67", text)
    assert text.index("a100-1") < text.index("t4-0") < text.index("t4-3")


def test_kv_line_names_each_kind_with_each_number_of_layers_once(data) -> None:
    placement = data["helix"].placement_document
    text = kv_text("helix", placement)
    assert text.startswith("helix: KV tokens: ")
    held = {
        (node["node_type"], layers[1] - layers[0])
        for node in placement["nodes"]
        if (layers := placement["layers"][node["node"]]) is not None
    }
    for kind, layers in held:
        assert text.count(f"{kind} with {layers} layers ") == 1
    assert "a100 with 8 layers 800" in text


def test_figures_are_the_same_bytes_twice(data) -> None:
    def draw() -> bytes:
        with styled():
            return svg_bytes(throughput_bars(data)[0])

    assert draw() == draw()


def test_latency_curves_end_at_one_and_hit_the_percentiles(data) -> None:
    with styled():
        _, table = latency_cdfs(data)
    for (system, metric), curve in pd.DataFrame(table).groupby(["system", "metric"]):
        assert (np.diff(curve["value"]) >= 0).all()
        assert curve["share_at_most"].iloc[-1] == pytest.approx(1)
        name, _, unit = metric.partition("_")
        median_s = np.interp(0.5, curve["share_at_most"], curve["value"]) * {"s": 1, "ms": 1e-3}[unit]
        assert median_s == pytest.approx(getattr(data[system].summary, name).median_s, rel=0.01)


@pytest.fixture(scope="module")
def page_path(run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("report") / "run"
    shutil.copytree(run_dir, directory)
    (directory / "config.resolved.yaml").write_text("name: <fake>\n")
    manifest = {"identity": {"config_hash": "abc123"}, "assumptions": ["L4: roofline & nothing else."]}
    return build_report(directory, manifest)


def test_charts_come_as_svg_with_their_values_as_csv(page_path: Path) -> None:
    drawings = sorted(page_path.parent.glob("figures/*.svg"))
    assert {path.stem for path in drawings} == {"latency", "over_time", "utilisation"}
    for path in drawings:
        root = ET.fromstring(path.read_text())
        assert [text for text in root.iter("{http://www.w3.org/2000/svg}text") if text.text]
        assert len(path.with_suffix(".csv").read_text().splitlines()) > 1


def test_figures_for_papers_come_as_svg_png_and_csv_with_text_as_text(data, tmp_path: Path) -> None:
    written = write_figures(data, tmp_path)
    assert {"throughput", "latency", "placement-helix", "placement-a_b__i_"} <= {figure.name for figure in written}
    for figure in written:
        path = tmp_path / f"{figure.name}.svg"
        assert list(ET.fromstring(path.read_text()).iter("{http://www.w3.org/2000/svg}text"))
        assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
        assert len(path.with_suffix(".csv").read_text().splitlines()) > 1


def test_page_is_self_contained_escaped_and_has_unique_ids(page_path: Path) -> None:
    page = page_path.read_text()
    assert "a/b &lt;i&gt;" in page
    assert "a/b <i>" not in page
    assert "name: &lt;fake&gt;" in page
    assert "abc123" in page
    assert "roofline &amp; nothing else" in page
    assert not re.findall(r'(?:src|href)="https?:', page.replace("http://www.w3.org", ""))
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'xlink:href="#([^"]+)"', page)) <= set(ids)


def test_page_begins_with_the_verdict_of_the_summary(page_path: Path, data) -> None:
    """The sentences of ``verdict`` in the summary, before any table of figures."""
    text = html.unescape(re.sub(r"<[^>]+>", "", page_path.read_text()))
    places = [text.index(one["text"]) for one in data.document()["verdict"]["answer"]]
    assert places == sorted(places)
    assert places[-1] < text.index("Comparison")


def test_report_command_needs_a_finished_run(run_dir: Path, tmp_path: Path, capsys) -> None:
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    directory = tmp_path / "run"
    shutil.copytree(run_dir, directory)
    args = parser.parse_args(["report", str(directory)])
    with pytest.raises(DataError, match=r"manifest\.json"):
        args.func(args)
    write_manifest(directory, {"identity": {"content_key": "0"}}, rebuilt=("report.html", "figures"))
    assert args.func(args) == 0
    assert Path(capsys.readouterr().out.strip()).read_text().startswith("<!doctype html>")
    (directory / "nodes.csv").unlink()
    with pytest.raises(DataError, match=r"nodes\.csv: missing"):
        args.func(args)


def test_foreign_summary_is_refused(run_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text('{"schema": 99}')
    with pytest.raises(DataError, match="schema 1, got 99"):
        RunSet.load(tmp_path)
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        RunSet.load(tmp_path)


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.0, "0.00"), (0.04321, "0.0432"), (1.5, "1.50"), (99.96, "100"), (12345.6, "12 346"), (1e-7, "0")],
)
def test_numbers_keep_three_digits(value: float | None, text: str) -> None:
    assert number(value) == text


def test_file_stems_are_safe() -> None:
    assert file_stem("a/b <i>") == "a_b__i_"


cells = st.text("0123456789.±", min_size=1, max_size=12)


@given(st.lists(st.tuples(st.sampled_from(["$ per million output tokens", "TTFT p99, s", "rate"]), cells), min_size=1,
                max_size=9), st.integers(40, 120))  # fmt: skip
def test_tables_break_no_figure_where_there_is_room(columns, width):
    head, row = zip(*columns, strict=True)
    text = plain_table(head, [row], width=width)
    assert all(len(line) <= width for line in text.splitlines())
    least = sum(max(len(cell), *map(len, title.split())) for title, cell in columns) + 3 * (len(columns) - 1)
    if least <= width:
        assert text.splitlines()[-1].split() == list(row)
        words = [word for title in head for word in title.split()]
        assert sorted(" ".join(text.splitlines()[:-2]).split()) == sorted(words)
