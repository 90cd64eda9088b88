"""Measured times of whole steps, from a CSV: what ``profile fit`` fits the terms of a step's time to.

Columns: ``phase`` (``prefill`` or ``decode``), ``tokens``, ``seqs``, ``context``, and ``time_ms`` or ``time_s``.

- ``prefill``: ``tokens`` prompt tokens in all of ``seqs`` prompts (1 if empty), each behind ``context`` tokens that the
  KV cache has already (0 if empty): a later chunk of the same prompt, or a cached prefix.
- ``decode``: ``seqs`` sequences that get a token each, with ``context`` tokens of context each; ``tokens`` is empty or
  equals ``seqs``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from helixsim.domain.step_time import BatchShape, prefill_pairs
from helixsim.errors import DataError, unknown_name
from helixsim.hardware.measured import csv_rows, number_of, whole_number_of

TIMES = {"time_ms": 1e-3, "time_s": 1.0}
"""Columns of times, with their unit [s]."""

STEP_ERROR = 0.03
"""Relative error expected of the measured time of a step."""

COLUMNS = ("phase", "tokens", "seqs", "context")


@dataclass(frozen=True, slots=True)
class StepRow:
    """A measured time [s] of one or several steps.

    Parameters
    ----------
    parts
        (how often, shape) of each kind of step.
    label
        What errors are told by: ``prefill``, ``decode`` or ``serving``.
    error
        Relative error expected of the row.
    """

    label: str
    parts: tuple[tuple[float, BatchShape], ...]
    seconds: float
    error: float = STEP_ERROR

    def predicted_s(self, time_ns: Callable[[BatchShape], float]) -> float:
        """Return the time by a law of the time of a step [s]."""
        return sum(count * time_ns(shape) for count, shape in self.parts) / 1e9


def read_steps(path: Path) -> list[StepRow]:
    """Return the measured steps of a CSV.

    Raises
    ------
    DataError
        With the row, for columns, phases or numbers that make no sense.
    """
    return list(_steps(path))


def _steps(path: Path) -> Iterator[StepRow]:
    for where, row in csv_rows(path, COLUMNS, may_be_empty=("tokens", "seqs", "context")):
        column = _time_column(path, row)
        seconds = number_of(where, row, column) * TIMES[column]
        if seconds <= 0:
            raise DataError(f"{where}: {column} must be above zero")
        phase = row["phase"]
        if phase not in ("prefill", "decode"):
            raise DataError(f"{where}: {unknown_name('phase', phase, ('prefill', 'decode'))}")
        context = number_of(where, row, "context") if row["context"] else 0.0
        if phase == "prefill":
            seqs = whole_number_of(where, row, "seqs") if row["seqs"] else 1
            yield StepRow("prefill", ((1, prompts(whole_number_of(where, row, "tokens"), seqs, context)),), seconds)
            continue
        seqs = whole_number_of(where, row, "seqs")
        if row["tokens"] and number_of(where, row, "tokens") != seqs:
            raise DataError(f"{where}: a decode step has as many tokens as seqs, got {row['tokens']} and {seqs}")
        yield StepRow("decode", ((1, decoding(seqs, context)),), seconds)


def prompts(tokens: float, seqs: float, past: float = 0.0) -> BatchShape:
    """Return the shape of ``seqs`` prompts of equal length, ``tokens`` tokens in all, each behind ``past`` tokens."""
    each = tokens / seqs
    return BatchShape(
        prefill_tokens=tokens, prefill_pairs=seqs * prefill_pairs(each, past), prefill_seqs=seqs, sampled=seqs
    )


def decoding(seqs: float, context: float) -> BatchShape:
    """Return the shape of a decode step of ``seqs`` sequences with ``context`` tokens of context each."""
    return BatchShape(decode_seqs=seqs, decode_context=seqs * context, sampled=seqs)


def first_cells(path: Path) -> list[str]:
    """Return the comma-separated cells of a file's first line.

    Raises
    ------
    DataError
        If the file cannot be read.
    """
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            return [cell.strip() for cell in file.readline(100_000).split(",")]
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def is_table_of_steps(cells: Collection[str]) -> bool:
    """Return whether a header names a column of times of steps, with or without its unit."""
    return not {"time", *TIMES}.isdisjoint(cells)


def _time_column(path: Path, row: dict[str, str]) -> str:
    found = [name for name in TIMES if name in row]
    if len(found) != 1:
        got = "both" if found else "a column 'time' without unit" if "time" in row else "neither"
        raise DataError(f"{path}: exactly one of the columns {' and '.join(TIMES)} is needed, got {got}")
    return found[0]
