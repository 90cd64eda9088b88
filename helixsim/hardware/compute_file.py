"""``profiles/compute/*.yaml``: fitted timings, memory and limits of the kinds of nodes somebody has measured.

One file per model. ``profile fit`` writes this form; a file of the user's own is read the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationInfo, field_validator

from helixsim import validation
from helixsim.datafiles import data_path
from helixsim.domain.curves import Curve
from helixsim.domain.hardware import BatchLimits
from helixsim.units import NS_PER_MS
from helixsim.validation import Count, NotNegative, Number, Numbers, Section, Words


@dataclass(frozen=True, slots=True)
class FittedCurve:
    """A curve and how far the table's points lie from it, relative to the table."""

    curve: Curve
    median_error: float
    worst_error: float


@dataclass(frozen=True, slots=True)
class MeasuredMemory:
    """What the KV table of a node reveals (see ``kv_memory``), and the worst relative error of the law against it."""

    workspace_bytes: int
    overhead_bytes_per_layer: int
    worst_error: float


@dataclass(frozen=True, slots=True)
class PlannerRules:
    """Layers a planner gives or assumes, and the layer-tokens/s it starts from (see ``NodeProfile``)."""

    max_layers: int
    typical_layers: int
    typical_layers_full: int
    initial_layer_tokens_per_s: float


@dataclass(frozen=True, slots=True)
class FittedKind:
    """One kind of node and one model; ``batch[k - 1]`` are the batch limits with ``k`` layers, the last for more.

    ``memory``, ``planner`` and ``batch`` are None or empty where only timings were measured.
    """

    model: str
    precision: str
    kind: str
    source: str
    prefill: FittedCurve
    decode: FittedCurve
    memory: MeasuredMemory | None = None
    planner: PlannerRules | None = None
    batch: tuple[BatchLimits, ...] = ()


class CurveSection(Section):
    """How well a curve fits the table behind it."""

    median_error: NotNegative
    worst_error: NotNegative


def _curve(axis: str) -> Any:
    """Return the validator of the times of a curve: as many as there are points, and rising."""

    def check(ms: list[float], info: ValidationInfo) -> list[float]:
        if axis in info.data:
            Curve(tuple(info.data[axis]), tuple(ms))
        return ms

    return field_validator("ms")(check)


class PrefillSection(CurveSection):
    """Time of one layer [ms] against the prompt tokens of a batch."""

    tokens: Numbers
    ms: Numbers
    _check = _curve("tokens")


class DecodeSection(CurveSection):
    """Time of one layer [ms] against the sequences of a batch."""

    seqs: Numbers
    ms: Numbers
    _check = _curve("seqs")


class MemorySection(Section):
    """See ``MeasuredMemory``."""

    workspace_bytes: Number
    overhead_bytes_per_layer: Annotated[int, Field(ge=0, le=10**12)]
    worst_error: NotNegative


class PlannerSection(Section):
    """See ``PlannerRules``."""

    max_layers: Count
    typical_layers: Count
    typical_layers_full: Count
    initial_layer_tokens_per_s: NotNegative


class BatchLimitsSection(Section):
    """Batch limits; ``max_decode_seqs`` with up to so many layers."""

    max_prefill_requests: Count
    max_prefill_tokens: Count
    max_decode_seqs: Annotated[list[Count], Field(min_length=1)]
    up_to_layers: Annotated[list[Count], Field(min_length=1)]

    @field_validator("up_to_layers")
    @classmethod
    def _rise(cls, value: list[int], info: ValidationInfo) -> list[int]:
        counts = info.data.get("max_decode_seqs", value)
        if len(value) != len(counts) or any(b <= a for a, b in pairwise(value)):
            raise ValueError("must increase and have one entry for each of max_decode_seqs")
        return value


class KindSection(Section):
    """One kind of node."""

    prefill: PrefillSection
    decode: DecodeSection
    memory: MemorySection | None = None
    planner: PlannerSection | None = None
    batch_limits: BatchLimitsSection | None = None


class ComputeFile(Section):
    """``profiles/compute/*.yaml``: one model on several kinds of nodes."""

    model: Words
    precision: Words
    source: Words
    kinds: dict[str, KindSection]


def fitted_names() -> tuple[str, ...]:
    """Return ``model/kind`` of everything in ``profiles/compute``, in order of files and entries."""
    folder = data_path("profiles", "compute")
    return tuple(f"{path.stem}/{fitted.kind}" for path in sorted(folder.glob("*.yaml")) for fitted in read(path))


@cache
def committed(model: str) -> tuple[FittedKind, ...]:
    """Return what ``profiles/compute`` holds for ``model``; nothing if nobody has measured it."""
    path = data_path("profiles", "compute") / f"{model}.yaml"
    return read(path) if path.is_file() else ()


def read(path: Path) -> tuple[FittedKind, ...]:
    """Return the kinds in one file.

    Raises
    ------
    DataError
        With file, line and column.
    """
    file = validation.read(path, ComputeFile)
    return tuple(
        FittedKind(
            model=file.model,
            precision=file.precision,
            kind=kind,
            source=file.source,
            prefill=_fitted(entry.prefill, entry.prefill.tokens, entry.prefill.ms),
            decode=_fitted(entry.decode, entry.decode.seqs, entry.decode.ms),
            memory=None if entry.memory is None else _memory(entry.memory),
            planner=None if entry.planner is None else PlannerRules(**entry.planner.model_dump()),
            batch=() if entry.batch_limits is None else _batch(entry.batch_limits),
        )
        for kind, entry in file.kinds.items()
    )


def document(kinds: Sequence[FittedKind]) -> dict[str, Any]:
    """Return the contents of a file for ``kinds`` of one model; ``read`` understands it when dumped as YAML."""
    first = kinds[0]
    return {
        "model": first.model,
        "precision": first.precision,
        "source": first.source,
        "kinds": {fitted.kind: _entry(fitted) for fitted in kinds},
    }


def _fitted(section: CurveSection, points: Sequence[float], ms: Sequence[float]) -> FittedCurve:
    curve = Curve(tuple(points), tuple(time * NS_PER_MS for time in ms))
    return FittedCurve(curve, section.median_error, section.worst_error)


def _memory(section: MemorySection) -> MeasuredMemory:
    return MeasuredMemory(round(section.workspace_bytes), section.overhead_bytes_per_layer, section.worst_error)


def _batch(section: BatchLimitsSection) -> tuple[BatchLimits, ...]:
    limits: list[BatchLimits] = []
    for last, count in zip(section.up_to_layers, section.max_decode_seqs, strict=True):
        each = BatchLimits(section.max_prefill_requests, section.max_prefill_tokens, count)
        limits += [each] * (last - len(limits))
    return tuple(limits)


def _entry(fitted: FittedKind) -> dict[str, Any]:
    entry: dict[str, Any] = {"prefill": _points(fitted.prefill, "tokens"), "decode": _points(fitted.decode, "seqs")}
    if fitted.memory is not None:
        entry["memory"] = {
            "workspace_bytes": fitted.memory.workspace_bytes,
            "overhead_bytes_per_layer": fitted.memory.overhead_bytes_per_layer,
            "worst_error": round(fitted.memory.worst_error, 5),
        }
    if fitted.planner is not None:
        entry["planner"] = {
            "max_layers": fitted.planner.max_layers,
            "typical_layers": fitted.planner.typical_layers,
            "typical_layers_full": fitted.planner.typical_layers_full,
            "initial_layer_tokens_per_s": fitted.planner.initial_layer_tokens_per_s,
        }
    if fitted.batch:
        seqs = [limits.max_decode_seqs for limits in fitted.batch]
        ends = [k for k in range(1, len(seqs) + 1) if k == len(seqs) or seqs[k] != seqs[k - 1]]
        entry["batch_limits"] = {
            "max_prefill_requests": fitted.batch[0].max_prefill_requests,
            "max_prefill_tokens": fitted.batch[0].max_prefill_tokens,
            "up_to_layers": ends,
            "max_decode_seqs": [seqs[end - 1] for end in ends],
        }
    return entry


def _points(fitted: FittedCurve, axis: str) -> dict[str, Any]:
    return {
        axis: [int(x) if x == int(x) else x for x in fitted.curve.x],
        "ms": [round(time / NS_PER_MS, 3) for time in fitted.curve.y_ns],
        "median_error": round(fitted.median_error, 4),
        "worst_error": round(fitted.worst_error, 4),
    }
