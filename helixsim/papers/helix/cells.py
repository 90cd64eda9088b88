"""Measured cells: ``experiments/fidelity/cells.yaml``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import PlainValidator, ValidationInfo, field_validator

from helixsim.datafiles import data_path
from helixsim.validation import NotNegative, Section, Words, read

METRICS = ("throughput", "ttft", "step")
"""Decode steps per second in the window; mean time to first token [s]; mean time of one decode step [s]."""


@dataclass(frozen=True, slots=True)
class Part:
    """One system of one experiment file; a cell's figures are those of its parts together."""

    file: Path
    system: str

    def __str__(self) -> str:
        return f"{self.file.stem}/{self.system}"


@dataclass(frozen=True, slots=True)
class Figures:
    """Figures of one cell; None where nothing is known. Throughput in decode steps/s, the rest in seconds."""

    throughput: float | None = None
    ttft: float | None = None
    step: float | None = None

    def get(self, metric: str) -> float | None:
        """Return one of ``METRICS``."""
        value: float | None = getattr(self, metric)
        return value


@dataclass(frozen=True, slots=True)
class Cell:
    """One measurement.

    Parameters
    ----------
    gpus
        Kinds of nodes that serve it.
    measured, paper
        What the real system and the paper's own simulator show.
    is_fitted
        Whether it takes part in fitting engine overheads.
    note
        What is uncertain about it; may be empty.
    """

    name: str
    model: str
    mode: str
    gpus: tuple[str, ...]
    parts: tuple[Part, ...]
    measured: Figures
    paper: Figures
    is_fitted: bool
    note: str


def cells_path() -> Path:
    """Return the file of the cells that ship with helixsim."""
    return data_path("experiments", "fidelity", "cells.yaml")


def load_cells(path: Path | None = None) -> tuple[Cell, ...]:
    """Return the cells of a file, None: those that ship with helixsim.

    Raises
    ------
    DataError
        If the file cannot be read, is not a file of cells, or names an experiment that is not there.
    """
    path = path or cells_path()
    return tuple(
        Cell(
            name=name,
            model=entry.model,
            mode=entry.mode,
            gpus=tuple(entry.gpus),
            parts=tuple(entry.parts),
            measured=Figures(**entry.measured.model_dump()),
            paper=Figures(**entry.paper.model_dump()),
            is_fitted=entry.fitted,
            note=entry.note,
        )
        for name, entry in read(path, CellsFile, path.parent).cells.items()
    )


def _part(value: Any, info: ValidationInfo) -> Part:
    stem, _, system = str(value).partition("/")
    file = cast(Path, info.context) / f"{stem}.yaml"
    if not system or not file.is_file():
        raise ValueError(f"{value!r}: expected EXPERIMENT/SYSTEM, with a file EXPERIMENT.yaml beside this")
    return Part(file, system)


class FiguresEntry(Section):
    """See ``Figures``."""

    throughput: NotNegative | None = None
    ttft: NotNegative | None = None
    step: NotNegative | None = None


class CellEntry(Section):
    """See ``Cell``."""

    model: Words
    mode: Words
    gpus: list[Words]
    parts: list[Annotated[Part, PlainValidator(_part)]]
    measured: FiguresEntry
    paper: FiguresEntry = FiguresEntry()
    fitted: bool = True
    note: str = ""

    @field_validator("measured")
    @classmethod
    def _is_measured(cls, value: FiguresEntry) -> FiguresEntry:
        if value == FiguresEntry():
            raise ValueError("nothing measured")
        return value


class CellsFile(Section):
    """Cells by name, and where their figures come from."""

    source: Words
    cells: dict[str, CellEntry]
