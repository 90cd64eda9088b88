"""What the paper says: ``experiments/paper/published.csv``, and why helixsim differs where it does."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import RootModel

from helixsim.datafiles import data_path
from helixsim.errors import DataError
from helixsim.validation import Words, read

_COLUMNS = ["cell", "method", "metric", "kind", "value", "unit", "source"]
KINDS = ("simulated", "measured")
"""Whether a value comes from the authors' simulator (or solver), or was measured on their prototype."""


@dataclass(frozen=True, slots=True)
class Value:
    """One published value and where it stands."""

    value: float
    unit: str
    source: str


class Published:
    """Published values by cell, method, metric and kind."""

    def __init__(self, values: Mapping[tuple[str, str, str, str], Value]) -> None:
        self._values = values

    def get(self, cell: str, method: str, metric: str, kind: str = "simulated") -> Value | None:
        """Return a value, None where nothing is published."""
        return self._values.get((cell, method, metric, kind))

    def methods(self, cell: str, kind: str = "simulated") -> list[str]:
        """Return the methods a cell has anything of, in the order of the file."""
        return list(dict.fromkeys(method for c, method, _, k in self._values if (c, k) == (cell, kind)))

    def series(self, cell: str, method: str, prefix: str) -> list[tuple[float, float]]:
        """Return (x, value) of the metrics called ``prefix`` and a number, by x."""
        return sorted(
            (float(metric.removeprefix(prefix)), value.value)
            for (c, m, metric, _), value in self._values.items()
            if (c, m) == (cell, method) and metric.startswith(prefix)
        )


def load_published(path: Path | None = None) -> Published:
    """Return the values of a file, None: those that ship with helixsim.

    Raises
    ------
    DataError
        If the file cannot be read, or a row is incomplete, twice there or not a number.
    """
    path = path or data_path("experiments", "paper", "published.csv")
    values: dict[tuple[str, str, str, str], Value] = {}
    for line, row in _rows(path):
        if any(not row.get(column) for column in _COLUMNS):
            raise DataError(f"{path}:{line}: expected a value in each of {', '.join(_COLUMNS)}, got {row}")
        if row["kind"] not in KINDS:
            raise DataError(f"{path}:{line}: kind is {row['kind']!r}, allowed: {', '.join(KINDS)}")
        key = (row["cell"], row["method"], row["metric"], row["kind"])
        if key in values:
            raise DataError(f"{path}:{line}: a second value of {' '.join(key)}")
        try:
            value = float(row["value"])
        except ValueError:
            raise DataError(f"{path}:{line}: value is {row['value']!r}, expected a number") from None
        values[key] = Value(value, row["unit"], row["source"])
    return Published(values)


def load_causes(path: Path | None = None) -> dict[tuple[str, str], str]:
    """Return (cell, method) -> why helixsim misses the published value there; written by a person who looked.

    Raises
    ------
    DataError
        If the file cannot be read or is not of that shape.
    """
    causes = read(path or data_path("experiments", "paper", "causes.yaml"), CausesFile).root
    return {(cell, method): text for cell, methods in causes.items() for method, text in methods.items()}


class CausesFile(RootModel[dict[str, dict[str, Words]]]):
    """Cell -> method -> cause."""


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if reader.fieldnames != _COLUMNS:
                raise DataError(f"{path}:1: expected the columns {', '.join(_COLUMNS)}, got {reader.fieldnames}")
            yield from ((reader.line_num, row) for row in reader)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
