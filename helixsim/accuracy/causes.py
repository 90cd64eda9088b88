"""Named causes of the largest errors, as far as the measurements themselves tell them.

A cause is named only where other points show it: the same setting under another version of the engine, or with more
requests in flight; tables of measured kernels that are as far off; points of one model, GPU and version that are off
alike. Everything else stays "not known".
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache

from helixsim.accuracy.cells import weights_of
from helixsim.accuracy.errors import error
from helixsim.accuracy.page import share_text
from helixsim.accuracy.points import MeasuredPoint
from helixsim.accuracy.rows import MODELS
from helixsim.accuracy.run import PointResult
from helixsim.hardware import catalog
from helixsim.units import number

FALL = 0.9
"""Measured TPOT with more requests in flight over that with fewer, below which the two are not of one setting."""

SPREAD = 1.15
"""Ratio of largest to smallest measured TPOT of one setting from which its measurements are told apart."""

LEAST_SETTINGS = 5
"""Settings that two versions must share before one is said to be apart."""

SAME = 0.6
"""Share of an error, as a logarithm, from which the tables of kernels have it too."""


class Causes:
    """Causes of errors by comparison with all measured points of a source.

    Parameters
    ----------
    points
        All measured points, simulated or not.
    results
        Predictions of some of them.
    """

    def __init__(self, points: Iterable[MeasuredPoint], results: Iterable[PointResult] = ()) -> None:
        self._settings: dict[MeasuredPoint, list[MeasuredPoint]] = defaultdict(list)
        self._loads: dict[MeasuredPoint, list[MeasuredPoint]] = defaultdict(list)
        for point in points:
            self._settings[_setting(point)].append(point)
            self._loads[_without_load(point)].append(point)
        self._versions = self._ratios_of_versions()
        self._alike: dict[tuple[str, ...], list[float]] = defaultdict(list)
        for result in results:
            if (found := error(result, "tpot")) is not None:
                self._alike[_version(result.point)].append(math.log1p(found))

    def __call__(self, result: PointResult) -> str | None:
        """Return the cause of the error of a point in TPOT; None: not known."""
        found = error(result, "tpot")
        if found is None:
            return None
        return (
            self._more_in_flight(result.point, found)
            or self._other_runs(result.point, result.point.tpot_ms * (1 + found))
            or self._version(result.point, found)
            or _kernels_too(result, found)
            or self._all_alike(result.point, found)
        )

    def _ratios_of_versions(self) -> dict[tuple[str, ...], list[float]]:
        """Return the measured TPOT of each version over that of others in equal settings."""
        ratios: dict[tuple[str, ...], list[float]] = defaultdict(list)
        for points in self._settings.values():
            for version in sorted({point.engine_version for point in points}):
                own = [point for point in points if point.engine_version == version]
                others = [point.tpot_ms for point in points if point.engine_version != version]
                if others:
                    ratio = statistics.median(point.tpot_ms for point in own) / statistics.median(others)
                    ratios[_version(own[0])].append(ratio)
        return ratios

    def _version(self, point: MeasuredPoint, found: float) -> str | None:
        """Return that the version of the engine is measured apart from others in the settings that both have."""
        ratios = self._versions.get(_version(point), [])
        if len(ratios) < LEAST_SETTINGS:
            return None
        middle = statistics.median(ratios)
        if max(middle, 1 / middle) < SPREAD or (middle < 1) != (found > 0):
            return None
        return (
            f"this version was measured at {middle:.2f} times the TPOT of others in {len(ratios)} equal settings: "
            "something that is not stated differs, such as speculative decoding"
        )

    def _all_alike(self, point: MeasuredPoint, found: float) -> str | None:
        """Return that the points of this model, format, GPU and version are off in the same direction."""
        logs = self._alike.get(_version(point), [])
        if len(logs) < LEAST_SETTINGS or not found:
            return None
        middle = statistics.median(logs)
        if middle / math.log1p(found) < SAME:
            return None
        return (
            f"the {len(logs)} points of this model, format, GPU and version are off by "
            f"{share_text(math.expm1(middle), True)} in "
            "the median: a property of that version, or of its kernels, that is not modelled"
        )

    def _more_in_flight(self, point: MeasuredPoint, found: float) -> str | None:
        """Return a run of the same setting that is faster with more requests in flight, or slower with fewer."""
        others = self._loads.get(_without_load(point), [])
        faster = [o for o in others if o.concurrency > point.concurrency and o.tpot_ms < FALL * point.tpot_ms]
        slower = [o for o in others if o.concurrency < point.concurrency and FALL * o.tpot_ms > point.tpot_ms]
        for chosen, is_case in ((faster, found < 0), (slower, found > 0)):
            if chosen and is_case:
                other = min(chosen, key=lambda one: abs(math.log(one.concurrency / point.concurrency)))
                return (
                    f"measured {number(other.tpot_ms)} ms with {other.concurrency} in flight, which cannot be "
                    f"{'less' if other.concurrency > point.concurrency else 'more'} in the same setting"
                )
        return None

    def _other_runs(self, point: MeasuredPoint, predicted_ms: float) -> str | None:
        """Return the runs of the same setting, mostly of other versions, between which the prediction lies."""
        others = self._settings.get(_setting(point), [])
        low = min(others, key=lambda one: one.tpot_ms, default=point)
        high = max(others, key=lambda one: one.tpot_ms, default=point)
        if high.tpot_ms < SPREAD * low.tpot_ms or not low.tpot_ms / SPREAD <= predicted_ms <= SPREAD * high.tpot_ms:
            return None
        versions = "" if low.engine_version == high.engine_version else f" ({_versions((low, high))})"
        return f"the same setting was measured between {number(low.tpot_ms)} and {number(high.tpot_ms)} ms{versions}"


def _kernels_too(result: PointResult, found: float) -> str | None:
    """Return that tables of measured kernels are off in the same direction, simulated or as their own estimate."""
    for name, title in (("operators", "simulated with tables of measured kernels"), ("static", "the tables' estimate")):
        other = error(result, "tpot", name)
        if other is not None and math.log1p(other) / math.log1p(found) >= SAME:
            off = share_text(other, True)
            return f"{title} is off by {off} too: the time is not in the kernels, or the setting is another"
    return None


def _versions(points: Sequence[MeasuredPoint]) -> str:
    return " and ".join(one.engine_version or "version not stated" for one in points)


def _version(point: MeasuredPoint) -> tuple[str, ...]:
    return point.engine, _architecture(point.model), weights_of(point), point.gpu, point.engine_version


@cache
def _architecture(name: str) -> str:
    """Return the first of the measured models with the same layers: DeepSeek R1 is V3 with other weights."""
    layers = catalog.load_model(name).layers
    measured = sorted({model for model, _ in MODELS.values()})
    return next((other for other in measured if catalog.load_model(other).layers == layers), name)


def _setting(point: MeasuredPoint) -> MeasuredPoint:
    """Return a point without what may differ between runs of one setting."""
    model, weights = _architecture(point.model), weights_of(point)
    return replace(
        point, id="", source="", engine_version="", ttft_ms=0.0, tpot_ms=0.0, id_of_model="", model=model,
        weights=weights,
    )  # fmt: skip


def _without_load(point: MeasuredPoint) -> MeasuredPoint:
    """Return a point without what may differ between runs of one version under other numbers of requests in flight."""
    return replace(point, id="", concurrency=0, ttft_ms=0.0, tpot_ms=0.0)
