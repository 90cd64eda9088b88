"""The model error of a simulated system: how far off the simulation was at measured points of systems like it.

``profiles/accuracy/cells.csv`` has the log errors ln(predicted / measured) of measured points by cell: GPU, engine,
family of the model, format of the weights, GPUs of an instance, batch and context. The error of a system has the mean
and the variance of the errors in the cells, weighted by their likeness to the system (``metrics.error_table``), and a
variance for each kind of difference from them. The band of a figure is the central 80 % of the normal distribution with
this mean and variance, as ratios: what would be measured over what was predicted. It need not contain 1.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from helixsim.domain.figures import GpuShare, Limits, SettingFigures
from helixsim.domain.result import FloatArray
from helixsim.jsonio import json_values
from helixsim.metrics.error_cells import (
    BATCHES,
    CONTEXTS,
    METRICS,
    OWN_VARIABLE,
    Cell,
    bucket,
    known_cells,
    one_format,
    shipped_cells,
    shipped_differences,
)
from helixsim.metrics.error_table import KINDS, LEVEL, ORDERED, Cells, Z, likeness_of

LABELS = ("validated", "extrapolated", "unsupported")
"""Labels of systems, the best first."""


class LogError(NamedTuple):
    """Mean and standard deviation of ln(predicted / measured)."""

    mean: float
    sd: float


@dataclass(frozen=True, slots=True)
class Basis:
    """What an estimate of a log error rests on; two systems share the error of what both rest on.

    Parameters
    ----------
    weights
        Weights of the cells of the table, whose sum is 1.
    mean, sd
        Mean and standard deviation of the error over these cells.
    added
        Variance added for each kind of difference.
    values
        Values of the system in each kind with their shares.
    """

    weights: FloatArray
    mean: float
    sd: float
    added: Mapping[str, float]
    values: Mapping[str, Mapping[Any, float]]

    def covariance(self, other: Basis) -> float:
        """Return the covariance of the errors of two systems.

        Errors of cells are shared as far as the weights overlap, and what a difference adds if both systems have the
        same value there: systems on the same unmeasured GPU have its error in common, those on two such GPUs do not.
        """
        shared = float(np.minimum(self.weights, other.weights).sum()) * self.sd * other.sd
        for kind, mine in self.values.items():
            theirs = other.values[kind]
            common = sum(min(share, theirs.get(value, 0.0)) for value, share in mine.items())
            shared += common * math.sqrt(self.added[kind] * other.added[kind])
        return shared


@dataclass(frozen=True)
class ModelError:
    """How far off the figures of a system are expected to be.

    Parameters
    ----------
    label
        ``validated``: measured points of its kind lie around the system; ``extrapolated``: all points differ from it;
        ``unsupported``: the models do not represent it.
    differs
        Keys of ``KINDS`` in which the nearest points differ.
    points, nearest
        Number of these points, and what they are of.
    errors
        Log error of each metric.
    table
        Digest of the cells.
    unsupported
        What of the system the models do not represent, as sentences.
    """

    label: str
    differs: tuple[str, ...]
    points: int
    nearest: str
    errors: Mapping[str, LogError]
    table: str
    unsupported: tuple[str, ...]
    basis: Mapping[str, Basis] = field(repr=False, compare=False)

    def band(self, metric: str) -> Limits:
        """Return the 80 % band of a metric: what would be measured over what was predicted."""
        error = self.errors[metric]
        return Limits(math.exp(-error.mean - Z * error.sd), math.exp(Z * error.sd - error.mean))

    @property
    def sentence(self) -> str:
        """The label and the points behind it: ``validated: 214 measured points of h100, vllm-1, dense, fp8 ...``."""
        points = f"{self.points} measured point{'s' * (self.points != 1)} of {self.nearest}"
        if self.label == "validated":
            return f"validated: {points}"
        names = ", ".join(KINDS[kind] for kind in self.differs)
        if self.label == "unsupported":
            return f"unsupported: {'; '.join(self.unsupported)}"
        return f"extrapolated ({names}) from {points}"

    def to_json(self) -> dict[str, Any]:
        """Return the entry ``accuracy`` of a system in documents of results."""
        return {
            "label": self.label,
            "differs": [KINDS[kind] for kind in self.differs],
            "unsupported": list(self.unsupported),
            "points": self.points,
            "nearest": self.nearest,
            "sentence": self.sentence,
            "level": LEVEL,
            "band": {metric: json_values(self.band(metric)) for metric in METRICS},
            "table": self.table,
        }


def model_error(setting: SettingFigures | None) -> ModelError | None:
    """Return the model error of a system by the known cells; None if its setting is not known.

    Raises
    ------
    DataError
        If the table of cells is missing or invalid.
    """
    return None if setting is None else known_table().estimate(setting)


def known_table() -> Table:
    """Return the table of the shipped cells and of the user's own (``error_cells.known_cells``)."""
    return _table(known_cells()[1]) if os.environ.get(OWN_VARIABLE) else shipped_table()


@lru_cache(maxsize=1)
def _table(_digest: str) -> Table:
    return Table(*known_cells())


@lru_cache(maxsize=1)
def shipped_table() -> Table:
    """Return the table that ships with helixsim, read once."""
    cells, digest = shipped_cells()
    return Table(cells, digest, shipped_differences(digest))


def differences() -> str:
    """Return the contents of ``error_cells.DIFFERENCES`` for the shipped cells as they are now."""
    shipped_cells.cache_clear()
    cells, digest = shipped_cells()
    return json.dumps({"cells": digest, "added": Cells(cells).added}, indent=1) + "\n"


class Table:
    """Cells of measured points, and what they say of other systems."""

    def __init__(
        self, cells: Sequence[Cell], digest: str = "", added: Mapping[str, dict[str, float]] | None = None
    ) -> None:
        self.known, self.digest = Cells(cells, added), digest
        self._estimates: dict[SettingFigures, ModelError] = {}

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The cells."""
        return self.known.cells

    def estimate(self, setting: SettingFigures) -> ModelError:
        """Return the model error of a system; that of one that was asked for before is not computed again."""
        if setting not in self._estimates:
            self._estimates[setting] = self._estimate(setting)
        return self._estimates[setting]

    def _estimate(self, setting: SettingFigures) -> ModelError:
        parts = [(node.share, self._away(setting, node)) for node in setting.nodes]
        label, differs, points, nearest = self._label(setting, [away for _, away in parts])
        basis = {metric: self._basis(metric, parts, setting) for metric in METRICS}
        errors = {metric: LogError(one.mean, math.sqrt(one.covariance(one))) for metric, one in basis.items()}
        return ModelError(label, differs, points, nearest, errors, self.digest, setting.unsupported, basis)

    def _basis(
        self, metric: str, parts: Sequence[tuple[float, Mapping[str, FloatArray]]], setting: SettingFigures
    ) -> Basis:
        """Return what the error of a metric rests on; ``parts``: shares of nodes, and how far cells are from them."""
        errors, added = self.known.errors[metric], self.known.added[metric]
        total = sum(share for share, _ in parts)
        weights, widened = np.zeros(len(self.cells)), dict.fromkeys(KINDS, 0.0)
        for share, away in parts:
            own = share / total * errors.weights(likeness_of(away))
            weights += own
            for kind, one in away.items():
                widened[kind] += added[kind] * float((own * np.abs(one)).sum())
        mean, variance = errors.moments(weights)
        return Basis(weights, float(mean), math.sqrt(float(variance)), widened, _values(setting))

    def _away(self, setting: SettingFigures, node: GpuShare) -> dict[str, FloatArray]:
        """Return how far the cells are from one kind of node of a system; with a sign in ``ORDERED``."""

        def over(away: Callable[[Cell], float]) -> FloatArray:
            return np.array([away(cell) for cell in self.cells], dtype=float)

        batch, context = bucket(setting.batch, BATCHES), bucket(setting.context_tokens, CONTEXTS)
        weights = one_format(setting.weights)
        return {
            "gpu": over(lambda cell: node.gpu not in cell.gpu),
            "engine": over(lambda cell: cell.engine != setting.engine),
            "family": over(lambda cell: cell.family != setting.family),
            "weights": over(lambda cell: one_format(cell.weights) != weights),
            "kind": over(lambda cell: cell.is_disaggregated != setting.is_disaggregated),
            "stages": over(lambda cell: (cell.stages > 1) != (setting.stages > 1)),
            "regions": over(lambda _: setting.crosses_regions),
            "timings": over(lambda cell: not set(setting.timings) <= set(cell.timings)),
            "gpus": over(lambda cell: math.log2(cell.gpus / node.gpus)),
            "batch": over(lambda cell: cell.batch - batch),
            "context": over(lambda cell: cell.context - context),
        }

    def _label(
        self, setting: SettingFigures, parts: Sequence[Mapping[str, FloatArray]]
    ) -> tuple[str, tuple[str, ...], int, str]:
        """Return the label, the kinds of difference from the nearest points, their number and their description."""
        differs: set[str] = set()
        nearest: set[int] = set()
        for away in parts:
            cells, kinds = _nearest(away)
            nearest |= cells
            differs |= kinds
        found = [self.cells[number] for number in sorted(nearest)]
        label = "unsupported" if setting.unsupported else "extrapolated" if differs else "validated"
        ordered = tuple(kind for kind in KINDS if kind in differs)
        return label, ordered, sum(cell.points for cell in found), _described(found)


def _nearest(away: Mapping[str, FloatArray]) -> tuple[set[int], set[str]]:
    """Return the positions of the nearest cells, and the kinds in which all of them differ.

    Nearest are all cells that differ in the same kinds as the nearest one, whatever their GPUs, batch and context: in
    these, a system that lies between cells does not differ from them.
    """
    kinds = [kind for kind in away if kind not in ORDERED]
    first = int(np.argmax(likeness_of({kind: away[kind] for kind in kinds})))
    differs = {kind for kind in kinds if away[kind][first]}
    same = np.all([(away[kind] > 0) == (kind in differs) for kind in kinds], axis=0)
    outside = {kind for kind in ORDERED if not away[kind][same].min() <= 0 <= away[kind][same].max()}
    return set(np.flatnonzero(same).tolist()), differs | outside


def _values(setting: SettingFigures) -> dict[str, dict[Any, float]]:
    """Return the values of a system by kind of difference, with their shares."""
    found: dict[str, dict[Any, float]] = {
        "gpu": {}, "engine": {setting.engine: 1.0}, "family": {setting.family: 1.0},
        "weights": {one_format(setting.weights): 1.0}, "kind": {setting.is_disaggregated: 1.0},
        "stages": {setting.stages > 1: 1.0}, "regions": {setting.crosses_regions: 1.0},
        "timings": {setting.timings: 1.0}, "gpus": {}, "batch": {bucket(setting.batch, BATCHES): 1.0},
        "context": {bucket(setting.context_tokens, CONTEXTS): 1.0},
    }  # fmt: skip
    for node in setting.nodes:
        for kind, value in (("gpu", node.gpu), ("gpus", node.gpus)):
            found[kind][value] = found[kind].get(value, 0.0) + node.share
    return found


def _described(cells: Sequence[Cell]) -> str:
    """Return what cells are of: ``h100, vllm-1, dense, fp8, 2-8 GPUs``; more than three values as their number."""
    columns = (
        ("GPUs", [name for cell in cells for name in cell.gpu]),
        ("engines", [cell.engine for cell in cells]),
        ("families", [cell.family for cell in cells]),
        ("formats", [cell.weights for cell in cells]),
    )
    parts = []
    for title, names in columns:
        single = sorted(set(names))
        parts.append("/".join(single) if len(single) <= 3 else f"{len(single)} {title}")
    least, most = min(cell.gpus for cell in cells), max(cell.gpus for cell in cells)
    parts.append(f"{least} GPU{'s' * (most > 1)}" if least == most else f"{least}-{most} GPUs")
    return ", ".join(parts)
