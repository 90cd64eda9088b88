"""``profiles/compute/*.yaml``: fitted timings, memory and limits of the kinds of nodes somebody has measured.

One file per model. ``profile fit`` writes this form; a file of the user's own is read the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from helixsim.datafiles import data_path
from helixsim.domain.hardware import BatchLimits, Curve
from helixsim.hardware.profile_file import Section, open_profile
from helixsim.units import NS_PER_MS


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
    profile = open_profile(path)
    model, precision, source = profile.text("model"), profile.text("precision"), profile.text("source")
    kinds = profile.section("kinds")
    fitted = tuple(_kind(kinds.section(kind), model, precision, kind, source) for kind in kinds.names())
    profile.close()
    return fitted


def document(kinds: Sequence[FittedKind]) -> dict[str, Any]:
    """Return the contents of a file for ``kinds`` of one model; ``read`` understands it when dumped as YAML."""
    first = kinds[0]
    return {
        "model": first.model,
        "precision": first.precision,
        "source": first.source,
        "kinds": {fitted.kind: _entry(fitted) for fitted in kinds},
    }


def _kind(entry: Section, model: str, precision: str, kind: str, source: str) -> FittedKind:
    fitted = FittedKind(
        model=model,
        precision=precision,
        kind=kind,
        source=source,
        prefill=_curve(entry.section("prefill"), "tokens"),
        decode=_curve(entry.section("decode"), "seqs"),
        memory=_memory(entry.section("memory")) if "memory" in entry else None,
        planner=_planner(entry.section("planner")) if "planner" in entry else None,
        batch=_batch(entry.section("batch_limits")) if "batch_limits" in entry else (),
    )
    entry.close()
    return fitted


def _curve(entry: Section, axis: str) -> FittedCurve:
    batches, times = entry.numbers(axis), entry.numbers("ms")
    try:
        curve = Curve(batches, tuple(time * NS_PER_MS for time in times))
    except ValueError as error:
        raise entry.fault("ms", str(error)) from error
    fitted = FittedCurve(curve, entry.number("median_error", 0.0), entry.number("worst_error", 0.0))
    entry.close()
    return fitted


def _memory(entry: Section) -> MeasuredMemory:
    memory = MeasuredMemory(
        round(entry.number("workspace_bytes")),
        entry.integer("overhead_bytes_per_layer", 0),
        entry.number("worst_error", 0.0),
    )
    entry.close()
    return memory


def _planner(entry: Section) -> PlannerRules:
    rules = PlannerRules(
        entry.integer("max_layers"),
        entry.integer("typical_layers"),
        entry.integer("typical_layers_full"),
        entry.number("initial_layer_tokens_per_s", 0.0),
    )
    entry.close()
    return rules


def _batch(entry: Section) -> tuple[BatchLimits, ...]:
    requests, tokens = entry.integer("max_prefill_requests"), entry.integer("max_prefill_tokens")
    up_to, seqs = entry.numbers("up_to_layers"), entry.numbers("max_decode_seqs")
    entry.close()
    if len(up_to) != len(seqs) or any(b <= a for a, b in pairwise(up_to)):
        raise entry.fault("up_to_layers", "must increase and have one entry for each of max_decode_seqs")
    limits: list[BatchLimits] = []
    for last, count in zip(up_to, seqs, strict=True):
        limits += [BatchLimits(requests, tokens, int(count))] * (int(last) - len(limits))
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
