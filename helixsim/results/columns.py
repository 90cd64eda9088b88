"""Tables as arrays by the name of their column: what is written and drawn, without the time that pandas takes to load.

Text is an array of objects; an empty cell is NaN in a column of numbers, and None in one of objects.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from helixsim.escape import csv_read, csv_text

if TYPE_CHECKING:
    import pandas as pd

Columns = Mapping[str, NDArray[Any]]
TEXTS = frozenset({"system", "node", "node_type", "kind", "src", "dst"})
"""Columns of text in the tables of a run; all others hold numbers."""


def texts(values: Iterable[str]) -> NDArray[np.object_]:
    """Return a column of text."""
    return np.array(list(values), dtype=object)


def column(values: Sequence[Any]) -> NDArray[Any]:
    """Return a column of numbers, missing ones as NaN, or of objects if any is neither a number nor missing."""
    is_number = all(
        value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)) for value in values
    )
    if not is_number or not values:
        return np.array(values, dtype=object)
    return np.array(values, dtype=np.float64 if any(value is None for value in values) else None)


def of_rows(rows: Sequence[Mapping[str, Any]]) -> Columns:
    """Return rows as columns, in the order in which their names first occur; what a row lacks is missing."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: column([row.get(name) for row in rows]) for name in names}


def of_system(system: str, table: Columns) -> Columns:
    """Return a table with the name of a system in its first column."""
    length = len(next(iter(table.values()), ()))
    return {"system": np.full(length, system, dtype=object), **table}


def joined(tables: Sequence[Columns]) -> Columns:
    """Return the rows of tables of equal columns, one table after the other."""
    return {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}


def chosen(table: Columns, rows: NDArray[Any] | Sequence[int]) -> Columns:
    """Return some rows: a mask or positions."""
    return {name: values[rows] for name, values in table.items()}


def csv_lines(table: Columns | pd.DataFrame) -> str:
    """Return a table, or a data frame, as CSV: floats in nine significant digits, text escaped."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([csv_text(str(name)) for name in table])
    writer.writerows(zip(*(map(_cell, _values(table[name])) for name in table), strict=True))
    return stream.getvalue()


def read(path: Path) -> Columns:
    """Return a table of a run from its CSV file; ``ValueError`` if a cell that should is no number."""
    with path.open(encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
    cells = zip(*rows, strict=True) if rows else [()] * len(head)
    return {name: _parsed(name, values) for name, values in zip(map(csv_read, head), cells, strict=True)}


def _values(values: Any) -> list[Any]:
    """Return the cells of an array, or of a column of a data frame, whose missing ones have types of their own."""
    if not isinstance(values, np.ndarray):
        values = values.astype(object).where(values.notna(), None)
    cells: list[Any] = values.tolist()
    return cells


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.9g}"
    return csv_text(value)


def _parsed(name: str, cells: Sequence[str]) -> NDArray[Any]:
    if name in TEXTS:
        return texts(map(csv_read, cells))
    try:
        return np.array([int(cell) for cell in cells], dtype=np.int64)
    except ValueError:
        return np.array([float(cell or "nan") for cell in cells], dtype=np.float64)


def thinned(samples: int, points: int) -> list[int]:
    """Return evenly spaced positions including the first and the last."""
    if samples <= points:
        return list(range(samples))
    return sorted({int(position) for position in np.linspace(0, samples - 1, points).round()})
