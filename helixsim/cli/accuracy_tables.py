"""The errors of measured points by property, for ``helixsim accuracy``."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from helixsim.accuracy.run import PointResult


def _groupings() -> dict[str, Any]:
    from helixsim.accuracy.cells import family_of, weights_of
    from helixsim.metrics.error_cells import BATCHES, class_of

    return {
        "all": lambda point: ("all points",),
        "engine": lambda point: (point.engine,),
        "GPU, engine": lambda point: (point.gpu, point.engine),
        "family": lambda point: (family_of(point),),
        "model": lambda point: (point.model, weights_of(point), point.gpu, point.engine),
        "in flight": lambda point: (point.engine, class_of(point.in_flight, BATCHES)),
        "GPUs": lambda point: (point.engine, f"{point.gpus} GPUs"),
        "source": lambda point: (point.source,),
    }


def error_summary(results: list[PointResult], predictors: tuple[str, ...]) -> dict[str, Any]:
    """Return errors by predictor, metric and property, as JSON values."""
    from helixsim.accuracy.cells import METRICS, errors_by

    return {
        predictor: {
            metric: {
                title: {
                    " / ".join(name): asdict(one) for name, one in errors_by(results, key, metric, predictor).items()
                }
                for title, key in _groupings().items()
            }
            for metric in METRICS
        }
        for predictor in predictors
    }


def print_errors(results: list[PointResult], predictors: tuple[str, ...], known: int) -> None:
    """Print the errors of points by property; ``known``: points of which these are some."""
    from helixsim.accuracy.cells import METRICS, errors_by
    from helixsim.cli.profile_actions import aligned

    print(f"{len(results)} of {known} points; |predicted / measured - 1|: median, 90 %, and bias (median with sign)\n")
    for predictor in predictors:
        lines: list[tuple[str, ...]] = []
        for title, key in _groupings().items():
            found = {metric: errors_by(results, key, metric, predictor) for metric in METRICS}
            for name, of_tpot in found["tpot"].items():
                cells = [
                    text
                    for metric in METRICS
                    for one in [found[metric][name]]
                    for text in (f"{one.median:.1%}", f"{one.p90:.1%}", f"{one.bias:+.1%}")
                ]
                lines.append((title, ", ".join(name), str(of_tpot.count), *cells))
        head = ("by", "", "points", "TPOT", "p90", "bias", "throughput", "p90", "bias", "TTFT", "p90", "bias")
        print(f"{predictor}\n{aligned(head, lines)}\n")
