"""The sample of points that the package has: settings and the errors found when they were last looked at.

``profiles/accuracy/sample.csv`` tells whether a change of the code made predictions worse, without the library that has
the measurements. It holds derived figures: what helixsim predicted, and the logarithm of predicted over measured.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from helixsim.accuracy.cells import METRICS, ratio
from helixsim.accuracy.points import AGGREGATED, MeasuredPoint, throughput
from helixsim.accuracy.run import PointResult, Prediction
from helixsim.errors import DataError

SIZE = 100
"""Points of the sample, as far as the strata allow."""

ALLOWED = 0.02
"""Growth of the root mean square of log errors in a group that still counts as no change."""

_SETTING = tuple(
    field.name for field in fields(MeasuredPoint) if field.name not in ("ttft_ms", "tpot_ms", "id_of_model", "rows")
)
_INTEGERS = {
    "tensor_parallel", "data_parallel", "expert_parallel", "prompt_tokens", "output_tokens", "concurrency",
    "prefill_workers", "prefill_tensor_parallel", "prefill_data_parallel", "prefill_expert_parallel", "decode_workers",
    "decode_seqs", "drafts",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Known:
    """A point of the sample with the errors in the table, ln(predicted / measured) by metric."""

    point: MeasuredPoint
    log_errors: dict[str, float]


def rows(results: Iterable[PointResult]) -> list[dict[str, str | int | float]]:
    """Return the table of the results that have an analytic prediction."""
    found: list[dict[str, str | int | float]] = []
    for result in results:
        if result.analytic is None:
            continue
        setting = {name: getattr(result.point, name) for name in _SETTING}
        row: dict[str, str | int | float] = {name: "" if value is None else value for name, value in setting.items()}
        row |= {f"predicted_{name}": f"{getattr(result.analytic, name):.6g}" for name in ("ttft_ms", "tpot_ms")}
        for metric in METRICS:
            row[f"{metric}_log_error"] = f"{math.log(ratio(result, metric) or math.nan):.5f}"
        found.append(row)
    return found


def read(path: Path) -> list[Known]:
    """Return the points of a table, with measured means from the predictions and their errors.

    Raises
    ------
    DataError
        If the file cannot be read, or a value is missing or no number.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [_known(row) for row in csv.DictReader(file)]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: expected the columns that accuracy --update writes: {error!r}") from error


def _known(row: dict[str, str]) -> Known:
    setting: dict[str, object] = {}
    for name in _SETTING:
        text = row[name]
        setting[name] = int(text) if name in _INTEGERS else float(text) if name == "spread" else text if text else None
    setting["engine_version"] = row["engine_version"]
    means = {
        name: float(row[f"predicted_{name}"]) / math.exp(float(row[f"{metric}_log_error"]))
        for metric, name in METRICS.items()
        if f"predicted_{name}" in row
    }
    point = MeasuredPoint(**setting, **means)  # type: ignore[arg-type]
    return Known(point, {metric: float(row[f"{metric}_log_error"]) for metric in METRICS})


def errors_of(point: MeasuredPoint, ttft_ms: float, tpot_ms: float) -> dict[str, float]:
    """Return ln(predicted / measured) of each metric for predicted means."""
    prediction = Prediction(ttft_ms, tpot_ms, throughput(point, ttft_ms, tpot_ms))
    result = PointResult(point, prediction)
    return {metric: math.log(ratio(result, metric) or math.nan) for metric in METRICS}


def worse(known: Sequence[Known], found: Sequence[dict[str, float]]) -> list[str]:
    """Return a sentence for each group (engine on a GPU) and metric whose errors have grown.

    Parameters
    ----------
    found
        Log errors of the same points, now.

    Notes
    -----
    TTFT of a closed loop is reported and not judged: the first wave of requests decides it.
    """
    groups: dict[tuple[str, str, str], list[tuple[dict[str, float], dict[str, float]]]] = {}
    for one, now in zip(known, found, strict=True):
        group = one.point.kind, one.point.engine, one.point.gpu
        groups.setdefault(group, []).append((one.log_errors, now))
    grown: list[str] = []
    for (kind, engine, gpu), pairs in sorted(groups.items()):
        for metric in ("tpot", "throughput"):
            before, after = (_rms([pair[side][metric] for pair in pairs]) for side in (0, 1))
            if not after <= before + ALLOWED:
                of = f"{engine} on {gpu}" + ("" if kind == AGGREGATED else f", {kind}")
                grown.append(f"{of}: {metric} {before:.3f} -> {after:.3f} over {len(pairs)} points")
    return grown


def _rms(values: Sequence[float]) -> float:
    return math.sqrt(sum(value * value for value in values) / len(values))
