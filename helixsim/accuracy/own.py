"""A user's own accuracy table: a CSV with one row for each measured point that was compared.

Its first columns are those of ``profiles/accuracy/cells.csv``, so that labels and bands read it beside the shipped
cells; the others say where a point comes from. A point is known by the digest of its file and the number of its result:
comparing it again replaces its row.
"""

from __future__ import annotations

import csv
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from helixsim.benchmarks.benchmark import Benchmark
from helixsim.benchmarks.read import described
from helixsim.domain.summary import Summary
from helixsim.errors import DataError
from helixsim.jsonio import read_text
from helixsim.metrics.error_cells import (
    METRICS,
    SPLIT,
    Cell,
    one_format,
    own_cells,
    setting_columns,
    shipped_cells,
    stages_of,
)
from helixsim.writing import write_rows

FIGURES = {
    "tpot": ("mean_tpot_ms", "mean_itl_ms"),
    "throughput": ("output_throughput",),
    "ttft": ("mean_ttft_ms",),
}
"""Figures of a metric, the first that both sides have."""

CELL_COLUMNS = (
    "gpu", "engine", "family", "weights", "gpus", "batch", "context", "points",
    *(f"{metric}_log_error_{statistic}" for metric in METRICS for statistic in ("mean", "sd")),
    "stages", "timings", "kind",
)  # fmt: skip
POINT_COLUMNS = ("file", "result", "digest", "tool", "load", "experiment", "calibration")


@dataclass(frozen=True)
class OwnPoint:
    """A measured point beside the simulation of it.

    ``result``: number of the result in its file, from 1.
    """

    path: Path
    result: int
    benchmark: Benchmark
    summary: Summary
    experiment: str
    calibration: str = ""

    def row(self) -> dict[str, str]:
        """Return the point as a row.

        Raises
        ------
        DataError
            If nothing of it can be compared.
        """
        setting, simulated = self.summary.setting, self.summary.vllm_keys()
        errors: dict[str, str] = {}
        for metric, keys in FIGURES.items():
            both = [key for key in keys if simulated.get(key) and self.benchmark.figures.get(key)]
            value = f"{math.log(simulated[both[0]] / self.benchmark.figures[both[0]]):.4f}" if both else ""
            errors |= {f"{metric}_log_error_mean": value, f"{metric}_log_error_sd": "0.0000" if both else ""}
        if setting is None or not any(errors.values()):
            raise DataError(f"{self.path}: result {self.result}: no TPOT, TTFT or throughput on both sides to compare")
        return {
            **setting_columns(setting),
            "points": "1",
            **errors,
            "stages": str(stages_of(setting)),
            "timings": "+".join(setting.timings),
            "file": str(self.path),
            "result": str(self.result),
            "digest": hashlib.sha256(self.path.read_bytes()).hexdigest()[:16],
            "tool": self.benchmark.tool,
            "load": described(self.benchmark),
            "experiment": self.experiment,
            "calibration": self.calibration,
        }


def add(path: Path, points: Sequence[OwnPoint]) -> tuple[int, int]:
    """Add points to a table, which is made if there is none; return how many are new, and how many rows there are.

    Raises
    ------
    DataError
        If the file is no such table, or nothing of a point can be compared.
    """
    rows = {_key(row): row for row in read_rows(path)} if path.exists() else {}
    before = len(rows)
    for point in points:
        row = point.row()
        rows[_key(row)] = row
    write_rows(path, list(rows.values()), (*CELL_COLUMNS, *POINT_COLUMNS))
    return len(rows) - before, len(rows)


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a table.

    Raises
    ------
    DataError
        If the file cannot be read or is no such table.
    """
    text = read_text(path)
    own_cells(text, str(path))
    rows = list(csv.DictReader(text.splitlines()))
    for number, row in enumerate(rows, start=1):
        row.setdefault("kind", SPLIT[0])  # tables of before there were other kinds
        lacking = [column for column in (*CELL_COLUMNS, *POINT_COLUMNS) if row.get(column) is None]
        if lacking or None in row:
            what = f"no column {lacking[0]!r}" if lacking else "more values than columns"
            raise DataError(f"{path}: row {number}: {what}; expected a table of `compare --add-to`")
    return rows


@dataclass(frozen=True)
class OwnCell:
    """A cell of the user's points, and the same cell of the shipped table, None if there is none."""

    own: Cell
    shipped: Cell | None


def beside_shipped(path: Path) -> list[OwnCell]:
    """Return the cells of a table beside those that ship with helixsim; raises as ``read_rows``."""
    read_rows(path)
    shipped = shipped_cells()[0]

    def same(one: Cell, other: Cell) -> bool:
        keys = ("gpu", "engine", "family", "gpus", "batch", "context", "stages")
        alike = all(getattr(one, key) == getattr(other, key) for key in keys)
        return alike and one_format(one.weights) == one_format(other.weights)

    cells = own_cells(read_text(path), str(path))
    return [OwnCell(own, next((cell for cell in shipped if same(own, cell)), None)) for own in cells]


def over_all(path: Path) -> Mapping[str, tuple[int, float, float]]:
    """Return number of points, median |error| and median error with its sign of each metric, over a table."""
    rows, found = read_rows(path), {}
    for metric in METRICS:
        texts = [row[f"{metric}_log_error_mean"] for row in rows]
        errors = np.expm1(np.array([float(text) for text in texts if text]))
        if len(errors):
            found[metric] = (len(errors), float(np.median(np.abs(errors))), float(np.median(errors)))
    return found


def _key(row: Mapping[str, str]) -> tuple[str, str]:
    return row["digest"], row["result"]
