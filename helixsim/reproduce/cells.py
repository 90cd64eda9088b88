"""Measured cells: ``experiments/fidelity/cells.yaml``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from helixsim.datafiles import data_path
from helixsim.errors import DataError
from helixsim.hardware.profile_file import Section, open_profile

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
    profile = open_profile(path)
    profile.text("source")
    entries = profile.section("cells")
    cells = tuple(_cell(name, entries.section(name), path.parent) for name in entries.names())
    profile.close()
    return cells


def _cell(name: str, entry: Section, folder: Path) -> Cell:
    parts = []
    for text in entry.texts("parts"):
        stem, _, system = text.partition("/")
        file = folder / f"{stem}.yaml"
        if not system or not file.is_file():
            raise entry.fault("parts", f"{text!r}: expected EXPERIMENT/SYSTEM, with a file EXPERIMENT.yaml beside this")
        parts.append(Part(file, system))
    cell = Cell(
        name=name,
        model=entry.text("model"),
        mode=entry.text("mode"),
        gpus=entry.texts("gpus"),
        parts=tuple(parts),
        measured=_figures(entry.section("measured")),
        paper=_figures(entry.section("paper")) if "paper" in entry else Figures(),
        is_fitted=entry.flag("fitted") if "fitted" in entry else True,
        note=entry.text("note") if "note" in entry else "",
    )
    entry.close()
    if cell.measured == Figures():
        raise DataError(f"{folder / 'cells.yaml'}: {name}: nothing measured")
    return cell


def _figures(entry: Section) -> Figures:
    values = {metric: entry.number(metric, 0.0) for metric in METRICS if metric in entry}
    entry.close()
    return Figures(**values)
