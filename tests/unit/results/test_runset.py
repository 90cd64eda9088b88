"""Runs in memory and read back are the same, and ``summary.json`` is a view of them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from helixsim.errors import DataError
from helixsim.results import tables
from helixsim.results.columns import csv_lines
from helixsim.results.run import TABLES
from helixsim.results.runset import RunSet


@pytest.fixture(scope="module")
def loaded(run_dir) -> RunSet:
    return RunSet.load(run_dir)


def test_the_document_is_the_file_before_and_after_reading(fake_runs, loaded, run_dir) -> None:
    text = (run_dir / "summary.json").read_text(encoding="utf-8")
    for runs in (fake_runs, loaded):
        assert json.dumps(runs.document(), indent=2, ensure_ascii=False) + "\n" == text


def test_figures_read_back_are_those_that_were_computed(fake_runs, loaded) -> None:
    assert list(loaded) == list(fake_runs)
    for name, run in fake_runs.items():
        assert loaded[name].summary == run.summary
        assert loaded.comparisons[name] == fake_runs.comparisons[name]
        assert loaded[name].placement.ranges == run.placement.ranges
    pd.testing.assert_frame_equal(loaded.table(), fake_runs.table())


@pytest.mark.parametrize("table", ["requests", *TABLES])
def test_tables_read_back_hold_the_same(fake_runs, loaded, table) -> None:
    for name, run in fake_runs.items():
        ours, theirs = getattr(run, table), getattr(loaded[name], table)
        assert len(ours) > 0
        texts = [column for column in ours if pd.api.types.infer_dtype(ours[column]) in ("string", "empty")]
        assert ours[texts].to_numpy().tolist() == theirs[texts].astype(object).fillna("").to_numpy().tolist()
        numbers = ours.columns.difference(pd.Index(texts))
        pd.testing.assert_frame_equal(
            ours[numbers].astype("float64"), theirs[numbers].astype("float64"), rtol=1e-8, check_dtype=False
        )


@pytest.mark.parametrize("rows", [1, 7, 20_000])
def test_requests_are_written_as_the_table_is(fake_runs, monkeypatch, rows) -> None:
    monkeypatch.setattr(tables, "_ROWS_AT_A_TIME", rows)
    result = fake_runs["swarm"].simulation.result
    count = len(result.requests.request_id)
    classes = ("a, b", '=1+"x"', "two\nlines")
    requests = replace(result.requests, slo_class=np.arange(count) % 4 - 1)
    result = replace(result, requests=requests, classes=classes)
    expected = csv_lines(tables.requests_frame(result))
    assert (requests.finish_ns < 0).any()
    assert "".join(tables.requests_text(result)) == expected


def test_columns_of_requests_are_the_same_from_files_and_from_memory(fake_runs, loaded) -> None:
    names = ("arrival_ns", "first_token_ns", "finish_ns", "output_tokens")
    kept = loaded.with_requests({"helix": fake_runs["helix"].simulation.result.requests})
    for name, run in fake_runs.items():
        expected = run.request_columns(*names)
        for other in (loaded, kept):
            found = other[name].request_columns(*names)
            assert {key: column.tolist() for key, column in found.items()} == {
                key: column.tolist() for key, column in expected.items()
            }
    assert (
        kept["helix"].request_columns("arrival_ns")["arrival_ns"]
        is fake_runs["helix"].simulation.result.requests.arrival_ns
    )


def test_every_number_of_the_comparison_says_its_unit(fake_runs) -> None:
    table = fake_runs.table()
    assert table.index.tolist() == list(fake_runs)
    units = ("_per_s", "_s", "_ratio", "_share", "_per_mtok", "_hops", "attainment", "saturation", "preemptions",
             "accuracy", "points")  # fmt: skip
    assert [column for column in table if not column.endswith(units)] == []
    assert table["ttft_p99_s"]["swarm"] == fake_runs["swarm"].summary.ttft.p99_s
    assert table["output_tokens_ratio"][fake_runs.baseline] == 1


def test_a_set_of_runs_is_short_to_print(fake_runs) -> None:
    assert repr(fake_runs) == "<RunSet fake: helix, swarm (baseline), petals, a/b <i>>"
    assert len(repr(fake_runs["helix"])) < 80


def test_what_files_do_not_hold_is_said(loaded) -> None:
    with pytest.raises(DataError, match="helix: read from"):
        loaded["helix"].simulation  # noqa: B018


@pytest.mark.parametrize(("change", "message"), [
    (lambda document: document["systems"]["helix"]["helixsim"].pop("events"), "summary.json: helix: .*events"),
    (lambda document: document["systems"]["helix"]["helixsim"].pop("ratio_to_baseline"), "helix: .*ratio_to_baseline"),
    (lambda document: document.pop("slo"), "summary.json: .*slo"),
])  # fmt: skip
def test_a_damaged_summary_is_refused_with_what_it_lacks(run_dir, tmp_path, change, message) -> None:
    shutil.copytree(run_dir, tmp_path, dirs_exist_ok=True)
    document = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    change(document)
    (tmp_path / "summary.json").write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(DataError, match=message):
        RunSet.load(tmp_path)
