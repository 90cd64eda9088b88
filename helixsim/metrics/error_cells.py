"""Cells of measured points, as they ship in ``profiles/accuracy``: how far off predictions were."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from helixsim.datafiles import data_path
from helixsim.domain.figures import SettingFigures
from helixsim.errors import DataError
from helixsim.jsonio import read_text

METRICS = ("tpot", "throughput", "ttft")
"""Metrics with log errors."""

BATCHES = {"1-8": 8.0, "9-32": 32.0, "33-128": 128.0, "129+": math.inf}
"""Classes of requests in flight for an instance, with the most of each."""

CONTEXTS = {"0-2k": 2048.0, "2k-8k": 8192.0, "8k+": math.inf}
"""Classes of the mean context, prompt and half of the output, with the longest of each [tokens]."""

SPLIT = ("aggregated", "disaggregated")
"""Names of settings with prefill and decode on the same GPUs, and on different ones."""

OWN_VARIABLE = "HELIXSIM_ACCURACY"
"""Environment variable with the path of a table of the user's own points."""

SHIPPED = ("cells.csv", "prototype.csv")
"""Files in ``profiles/accuracy``: public points, and the paper's prototype."""

DIFFERENCES = "differences.json"
"""File beside them: what differences add, which takes longer to find than the cells to read."""

SIXTEEN_BIT = ("bf16", "fp16")
"""Formats of weights that are one: kernels of both take the same time."""


@dataclass(frozen=True, slots=True)
class Cell:
    """Measured points of one kind.

    Parameters
    ----------
    gpu
        GPU profiles; several for a pipeline of different GPUs.
    gpus
        GPUs of an instance.
    batch, context
        Positions in ``BATCHES`` and ``CONTEXTS``.
    stages
        Nodes of a pipeline.
    timings
        Sources of the step times of the prediction.
    is_disaggregated
        Whether prefill and decode were on different GPUs; ``gpus`` and ``batch`` are then those of an instance that
        decodes.
    errors
        Mean and standard deviation of ln(predicted / measured), by metric; none for metrics that were not measured.
    """

    gpu: tuple[str, ...]
    engine: str
    family: str
    weights: str
    gpus: int
    batch: int
    context: int
    points: int
    errors: Mapping[str, tuple[float, float]]
    stages: int = 1
    timings: tuple[str, ...] = ("roofline",)
    is_disaggregated: bool = False


def bucket(value: float, classes: Mapping[str, float]) -> int:
    """Return the position of the class that a value belongs to; it may exceed its limit by half a unit."""
    return next(number for number, most in enumerate(classes.values()) if value < most + 0.5)


def class_of(value: float, classes: Mapping[str, float]) -> str:
    """Return the name of the class that a value belongs to (``bucket``)."""
    return list(classes)[bucket(value, classes)]


def setting_columns(setting: SettingFigures) -> dict[str, str]:
    """Return the first columns of the cell of a setting; ``gpus`` is that of the nodes with the most work."""
    return {
        "gpu": "+".join(sorted({node.gpu for node in setting.nodes})),
        "engine": setting.engine,
        "family": setting.family,
        "weights": setting.weights,
        "gpus": str(max(setting.nodes, key=lambda node: node.share).gpus),
        "batch": class_of(setting.batch, BATCHES),
        "context": class_of(setting.context_tokens, CONTEXTS),
        "kind": SPLIT[setting.is_disaggregated],
    }


def stages_of(setting: SettingFigures) -> int:
    """Return the stages of a setting as its cell has them: rounded up, as a mean above one is that of a pipeline."""
    return max(1, math.ceil(setting.stages))


def error_columns(metric: str, log_errors: Sequence[float]) -> dict[str, float | str]:
    """Return the columns of a metric: mean and standard deviation of its log errors; empty without any."""
    known = len(log_errors) > 0
    return {
        f"{metric}_log_error_mean": round(float(np.mean(log_errors)), 4) if known else "",
        f"{metric}_log_error_sd": round(float(np.std(log_errors)), 4) if known else "",
    }


def one_format(weights: str) -> str:
    """Return a name that formats of equal speed share."""
    return "bf16" if weights in SIXTEEN_BIT else weights


@lru_cache(maxsize=1)
def shipped_cells() -> tuple[tuple[Cell, ...], str]:
    """Return the cells that ship with helixsim, and a digest of their files.

    Raises
    ------
    DataError
        If a file is missing or invalid.
    """
    found: tuple[Cell, ...] = ()
    digest = hashlib.sha256()
    for name in SHIPPED:
        path = data_path("profiles", "accuracy", name)
        text = read_text(path)
        found += cells_of(csv.DictReader(text.splitlines()), str(path))
        digest.update(text.encode())
    return found, digest.hexdigest()[:12]


def shipped_differences(digest: str) -> dict[str, dict[str, float]] | None:
    """Return what differences add to the variance of log errors, found from the shipped cells when these were written.

    None if they were found from other cells than those of ``digest`` (``shipped_cells``).

    Raises
    ------
    DataError
        If the file is missing or invalid.
    """
    path = data_path("profiles", "accuracy", DIFFERENCES)
    try:
        document = json.loads(read_text(path))
        found = {metric: {kind: float(one) for kind, one in document["added"][metric].items()} for metric in METRICS}
        return found if document["cells"] == digest else None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not as accuracy --update writes it: {type(error).__name__}: {error}") from None


def known_cells() -> tuple[tuple[Cell, ...], str]:
    """Return the shipped cells with the user's own in the file that ``OWN_VARIABLE`` names, and a digest of both.

    Of a shipped cell that differs in nothing from one of the user's, the user's remains.

    Raises
    ------
    DataError
        If a file is missing or invalid.
    """
    shipped, digest = shipped_cells()
    name = os.environ.get(OWN_VARIABLE)
    if not name:
        return shipped, digest
    text = read_text(Path(name))
    own = own_cells(text, name)
    kinds = {_kind(cell) for cell in own}
    both = (*own, *(cell for cell in shipped if _kind(cell) not in kinds))
    return both, hashlib.sha256((digest + text).encode()).hexdigest()[:12]


def own_cells(text: str, where: str) -> tuple[Cell, ...]:
    """Return the cells of a table with a row for each point, as ``compare --add-to`` writes it.

    Raises
    ------
    DataError
        If a row is not one of a point, or there is none.
    """
    found: dict[tuple[object, ...], list[Cell]] = {}
    for cell in cells_of(csv.DictReader(text.splitlines()), where):
        found.setdefault(_kind(cell), []).append(cell)
    return tuple(_joined(cells) for cells in found.values())


def _kind(cell: Cell) -> tuple[object, ...]:
    """Return all of a cell but its points."""
    return (
        cell.gpu, cell.engine, cell.family, one_format(cell.weights), cell.gpus, cell.batch, cell.context, cell.stages,
        cell.timings, cell.is_disaggregated,
    )  # fmt: skip


def _joined(cells: Sequence[Cell]) -> Cell:
    """Return cells of one kind as one."""
    errors = {}
    for metric in METRICS:
        having = [(cell.points, *cell.errors[metric]) for cell in cells if metric in cell.errors]
        if having:
            counts, means, sds = np.array(having, dtype=float).T
            mean = float(np.average(means, weights=counts))
            errors[metric] = (mean, math.sqrt(float(np.average(sds**2 + (means - mean) ** 2, weights=counts))))
    return replace(cells[0], points=sum(cell.points for cell in cells), errors=errors)


def cells_of(rows: Iterable[Mapping[str, str]], where: str) -> tuple[Cell, ...]:
    """Return the cells in the rows of a table.

    Raises
    ------
    DataError
        If a row is not one of a cell, or there is none.
    """
    found = tuple(_cell(row, f"{where}: row {number}") for number, row in enumerate(rows, start=1))
    if not found:
        raise DataError(f"{where}: has no cells")
    return found


def _cell(row: Mapping[str, str], where: str) -> Cell:
    try:
        return Cell(
            gpu=tuple(row["gpu"].split("+")),
            engine=row["engine"],
            family=row["family"],
            weights=row["weights"],
            gpus=_count(row["gpus"]),
            batch=list(BATCHES).index(row["batch"]),
            context=list(CONTEXTS).index(row["context"]),
            points=_count(row["points"]),
            errors={metric: errors for metric in METRICS if (errors := _errors(row, metric)) is not None},
            stages=_count(row.get("stages") or "1"),
            timings=tuple((row.get("timings") or "roofline").split("+")),
            is_disaggregated=bool(SPLIT.index(row.get("kind") or SPLIT[0])),
        )
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{where}: no cell of measured points: {type(error).__name__}: {error}") from None


def _count(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]*", text):
        raise ValueError(f"expected a whole number from 1 on, got {text!r}")
    return int(text)


def _errors(row: Mapping[str, str], metric: str) -> tuple[float, float] | None:
    """Return mean and standard deviation of a log error; None if the cells are empty."""
    texts: Sequence[str] = (row[f"{metric}_log_error_mean"], row[f"{metric}_log_error_sd"])
    if not any(texts):
        return None
    mean, sd = map(float, texts)
    if not (math.isfinite(mean) and math.isfinite(sd) and sd >= 0):
        raise ValueError(f"{metric}: expected finite errors with a spread of 0 or more, got {mean:g} and {sd:g}")
    return mean, sd
