"""Per-layer timing tables and limit tables in CSV, taken as they are.

Timings: columns ``model`` (may be absent: any model), ``gpu``, ``phase`` (``prompt`` or ``prefill``, ``decode``),
``batch_tokens``, ``ms_per_layer``. Limits: ``model`` (may be absent), ``gpu``, ``layers``, ``kv_tokens_per_layer``,
``prompt_max_requests``, ``prompt_max_tokens``, ``decode_max_tokens``; other columns are passed over. Both are the forms
in which the tables of the paper's artifact circulate; ``profiles/aliases.yaml`` maps their names.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from helixsim.domain.curves import Curve
from helixsim.domain.hardware import BatchLimits, ComputeProfile
from helixsim.domain.model import ModelSpec
from helixsim.errors import DataError, did_you_mean, shortened, unknown_name
from helixsim.hardware import catalog
from helixsim.units import NS_PER_MS

COPY_BYTES_PER_S = (4e9, 5e9)
"""Rates at which activations are joined on the CPU and copied to the GPU (paper's artifact); the default everywhere."""

_PHASES = {"prompt": "prefill", "prefill": "prefill", "decode": "decode"}


@dataclass(frozen=True, slots=True)
class Timings:
    """Time of one layer on one kind of node: (tokens or sequences in the batch, ms), by batch; model "" = any."""

    model: str
    kind: str
    prefill: tuple[tuple[float, float], ...]
    decode: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Limits:
    """KV tokens and batch limits of one kind of node with 1, 2, ... layers; model "" = any."""

    model: str
    kind: str
    kv_tokens: tuple[int, ...]
    batch: tuple[BatchLimits, ...]


_Table = TypeVar("_Table", Timings, Limits)


def activation_copy_ns_per_token(model: ModelSpec) -> float:
    """Return the time to bring one token's activations from the network into the batch on the GPU [ns]."""
    return model.activation_bytes_per_token * sum(1e9 / rate for rate in COPY_BYTES_PER_S)


def read_timings(path: Path) -> tuple[Timings, ...]:
    """Return the timings of each (model, kind) in the CSV at ``path``, in order of appearance.

    Raises
    ------
    DataError
        With the row, for columns, phases or numbers that make no sense, duplicates, or a phase without rows.
    """
    tables: dict[tuple[str, str], dict[str, dict[float, float]]] = {}
    for where, row in csv_rows(path, ("gpu", "phase", "batch_tokens", "ms_per_layer")):
        phase = _PHASES.get(row["phase"])
        if phase is None:
            raise DataError(f"{where}: {unknown_name('phase', row['phase'], _PHASES)}")
        points = tables.setdefault(_key(row), {"prefill": {}, "decode": {}})[phase]
        batch, time = number_of(where, row, "batch_tokens"), number_of(where, row, "ms_per_layer")
        if batch in points:
            raise DataError(f"{where}: batch_tokens {batch:g} of this model, gpu and phase was given before")
        if batch > 0 and time <= 0:
            raise DataError(f"{where}: ms_per_layer must be above zero for a batch of {batch:g}")
        points[batch] = time
    for (model, kind), table in tables.items():
        for phase, points in table.items():
            if not any(points):
                raise DataError(f"{path}: no {phase} timings of {model or 'any model'} on {kind}; both phases needed")
    return tuple(
        Timings(model, kind, tuple(sorted(table["prefill"].items())), tuple(sorted(table["decode"].items())))
        for (model, kind), table in tables.items()
    )


def read_limits(path: Path) -> tuple[Limits, ...]:
    """Return the limits of each (model, kind) in the CSV at ``path``, in order of appearance.

    Raises
    ------
    DataError
        With the row, for columns or numbers that make no sense; if the layers of a kind are not 1, 2, 3, ...
    """
    numbers = ("layers", "kv_tokens_per_layer", "prompt_max_requests", "prompt_max_tokens", "decode_max_tokens")
    tables: dict[tuple[str, str], list[tuple[int, BatchLimits]]] = {}
    for where, row in csv_rows(path, ("gpu", *numbers)):
        layers, kv_tokens, requests, tokens, seqs = (whole_number_of(where, row, name) for name in numbers)
        table = tables.setdefault(_key(row), [])
        if layers != len(table) + 1:
            raise DataError(
                f"{where}: layers {layers}, expected {len(table) + 1} next (one row per layer count, from 1)"
            )
        table.append((kv_tokens, BatchLimits(requests, tokens, seqs)))
    return tuple(
        Limits(model, kind, tuple(tokens for tokens, _ in table), tuple(batch for _, batch in table))
        for (model, kind), table in tables.items()
    )


def find(tables: Sequence[_Table], model: str, kind: str) -> _Table | None:
    """Return the table of ``kind`` for ``model``, or for any model, or None."""
    for wanted in (model, ""):
        for table in tables:
            if (table.model, table.kind) == (wanted, kind):
                return table
    return None


def compute_profile(timings: Timings, model: ModelSpec, provenance: str) -> ComputeProfile:
    """Return the profile that interpolates between the table's own points, a row (0, 0) included."""
    return ComputeProfile(
        kind=timings.kind,
        model=model.name,
        source="measured",
        prefill=curve(timings.prefill),
        decode=curve(timings.decode),
        activation_copy_ns_per_token=activation_copy_ns_per_token(model),
        provenance=provenance,
    )


def curve(points: Sequence[tuple[float, float]]) -> Curve:
    """Return the curve through (batch, ms) points, sorted by batch."""
    return Curve(tuple(batch for batch, _ in points), tuple(time * NS_PER_MS for _, time in points))


def _key(row: dict[str, str]) -> tuple[str, str]:
    model = row.get("model", "")
    return (catalog.model_name(model) if model else "", catalog.kind_name(row["gpu"]))


def csv_rows(
    path: Path, columns: Sequence[str], may_be_empty: Sequence[str] = ()
) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (where, row) of each row; ``columns`` must exist, and be filled in except those of ``may_be_empty``."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            header = [name.strip() for name in reader.fieldnames or ()]
            reader.fieldnames = header
            for column in columns:
                if column not in header:
                    near = did_you_mean(column, header)
                    known = shortened(", ".join(header)) or "none"
                    raise DataError(f"{path}: no column {column!r}{near} (columns: {known})")
            count = 0
            for count, row in enumerate(reader, start=1):
                where = f"{path}: row {count} (line {reader.line_num})"
                if None in row or None in row.values():
                    raise DataError(f"{where}: has not the {len(header)} cells of the header")
                cells = {name: value.strip() for name, value in row.items()}
                for column in columns:
                    if not cells[column] and column not in may_be_empty:
                        raise DataError(f"{where}: {column} is empty")
                yield where, cells
            if not count:
                raise DataError(f"{path}: no rows")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as CSV: {error}") from error


def number_of(where: str, row: dict[str, str], column: str) -> float:
    """Return the number of a cell, at least 0."""
    try:
        value = float(row[column])
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise DataError(f"{where}: {column}: expected a number of at least 0, got {row[column]!r}")
    return value


def whole_number_of(where: str, row: dict[str, str], column: str) -> int:
    """Return the whole number of a cell, at least 1."""
    value = number_of(where, row, column)
    if value != int(value) or value < 1:
        raise DataError(f"{where}: {column}: expected a whole number of at least 1, got {row[column]!r}")
    return int(value)
