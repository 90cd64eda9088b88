"""A user's own accuracy table, and how labels and bands read it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from helixsim.accuracy import own
from helixsim.benchmarks.benchmark import Benchmark, Lengths, Load
from helixsim.domain.figures import GpuShare, SettingFigures
from helixsim.errors import DataError
from helixsim.metrics import error_cells, model_error
from helixsim.metrics.error_cells import OWN_VARIABLE, known_cells, own_cells, shipped_cells
from helixsim.planning.replay import ReplayTask, measured_points, placement_of, replay
from tests.unit.planning.test_calibrate import experiment

SETTING = SettingFigures((GpuShare("h100", 1, 1.0),), "vllm-1", "dense", "fp16", ("roofline",), 1.0, 3.0, 300.0)
LOAD = Load(None, None, 2, 8, Lengths(200), Lengths(20))


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory):
    exp = experiment()
    name, placement = placement_of(exp, None)
    (point,) = measured_points(exp, [("", Benchmark("", {}, LOAD))], tmp_path_factory.mktemp("own"))
    return replay(ReplayTask(point, name, placement), lambda _share, _what: None).summary


def points(folder: Path, summary, factors=(1.1,), text: str = "{}") -> list[own.OwnPoint]:
    """Points of one file whose measured times are those simulated times a factor, and rates over it."""
    path = folder / f"bench-{len(text)}.json"
    path.write_text(text)
    keys = summary.vllm_keys()
    found = []
    for number, factor in enumerate(factors, start=1):
        figures = {key: keys[key] * factor for key in ("mean_tpot_ms", "mean_ttft_ms")}
        figures["output_throughput"] = keys["output_throughput"] / factor
        found.append(own.OwnPoint(path, number, Benchmark("vllm", figures, LOAD), summary, "exp.yaml"))
    return found


def test_points_become_rows_with_log_errors_and_are_replaced_when_compared_again(tmp_path: Path, summary) -> None:
    table = tmp_path / "accuracy.csv"
    assert own.add(table, points(tmp_path, summary, (1.1, 1.2))) == (2, 2)
    assert own.add(table, points(tmp_path, summary, (1.3,))) == (0, 2)
    assert own.add(table, points(tmp_path, summary, (1.0,), "[ ]")) == (1, 3)
    rows = own.read_rows(table)
    assert [float(row["tpot_log_error_mean"]) for row in rows] == pytest.approx(
        [-math.log(1.3), -math.log(1.2), 0.0], abs=1e-4
    )
    assert [float(row["throughput_log_error_mean"]) for row in rows] == pytest.approx(
        [math.log(1.3), math.log(1.2), 0.0], abs=1e-4
    )
    assert {(row["gpu"], row["engine"], row["gpus"], row["batch"], row["context"]) for row in rows} == {
        ("h100", "vllm-1", "1", "1-8", "0-2k")
    }
    count, median, bias = own.over_all(table)["tpot"]
    assert (count, median, bias) == pytest.approx((3, 1 - 1 / 1.2, 1 / 1.2 - 1), abs=1e-3)


def test_rows_of_one_kind_are_one_cell_with_their_spread(tmp_path: Path, summary) -> None:
    table = tmp_path / "accuracy.csv"
    own.add(table, points(tmp_path, summary, (1.0, 1.2)))
    (cell,) = own_cells(table.read_text(), "own")
    assert cell.points == 2
    assert cell.errors["tpot"] == pytest.approx((-math.log(1.2) / 2, math.log(1.2) / 2), abs=1e-4)
    assert [one.own.points for one in own.beside_shipped(table)] == [2]


def test_labels_read_the_table_that_the_variable_names(
    tmp_path: Path, summary, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = model_error.model_error(SETTING)
    table = tmp_path / "accuracy.csv"
    own.add(table, points(tmp_path, summary, (1.3, 1.3, 1.3, 1.3)))
    monkeypatch.setenv(OWN_VARIABLE, str(table))
    after = model_error.model_error(SETTING)
    assert after.label == "validated"
    assert after.points >= 4
    assert after.errors["tpot"].mean < before.errors["tpot"].mean - 0.05  # what is measured is above what is predicted
    assert after.table != before.table
    monkeypatch.delenv(OWN_VARIABLE)
    assert model_error.model_error(SETTING) == before


def test_own_points_replace_public_ones_of_the_same_kind(
    tmp_path: Path, summary, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = next(cell for cell in shipped_cells()[0] if cell.stages == 1 and len(cell.gpu) == 1)
    table = tmp_path / "accuracy.csv"
    own.add(table, points(tmp_path, summary))
    header, row = table.read_text().splitlines()
    fields = dict(zip(header.split(","), row.split(",")[: len(own.CELL_COLUMNS)], strict=False))
    batch, context = list(error_cells.BATCHES)[shipped.batch], list(error_cells.CONTEXTS)[shipped.context]
    fields |= {
        "gpu": shipped.gpu[0], "engine": shipped.engine, "family": shipped.family, "weights": shipped.weights,
        "gpus": str(shipped.gpus), "batch": batch, "context": context, "timings": "+".join(shipped.timings),
    }  # fmt: skip
    head = ",".join(own.CELL_COLUMNS)
    table.write_text(f"{head}\n{','.join(fields[column] for column in own.CELL_COLUMNS)}\n")
    monkeypatch.setenv(OWN_VARIABLE, str(table))
    cells = known_cells()[0]
    assert len(cells) == len(shipped_cells()[0])
    assert shipped not in cells


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("a,b\n1,2\n", "no cell of measured points"),
        ("header\n", "has no cells"),
    ],
)
def test_a_damaged_table_is_refused(
    text: str, said: str, tmp_path: Path, summary, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "accuracy.csv"
    table.write_text(text)
    monkeypatch.setenv(OWN_VARIABLE, str(table))
    for use in (lambda: own.add(table, points(tmp_path, summary)), lambda: model_error.model_error(SETTING)):
        with pytest.raises(DataError, match=said):
            use()
    assert table.read_text() == text


def test_a_table_without_the_columns_of_points_is_refused(tmp_path: Path, summary) -> None:
    table = tmp_path / "accuracy.csv"
    own.add(table, points(tmp_path, summary))
    lines = [",".join(line.split(",")[: len(own.CELL_COLUMNS)]) for line in table.read_text().splitlines()]
    table.write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match="row 1: no column 'file'"):
        own.read_rows(table)


def test_a_point_without_common_figures_is_refused(tmp_path: Path, summary) -> None:
    (point,) = points(tmp_path, summary)
    with pytest.raises(DataError, match="no TPOT, TTFT or throughput on both sides"):
        own.add(tmp_path / "accuracy.csv", [replace(point, benchmark=Benchmark("vllm", {"p99_ttft_ms": 1.0}))])
    assert not (tmp_path / "accuracy.csv").exists()
