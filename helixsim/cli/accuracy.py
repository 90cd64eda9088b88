"""``helixsim accuracy``: helixsim against public measurements of served models."""

from __future__ import annotations

import argparse
import csv
import io
from collections import Counter
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helixsim.cli import console, options
from helixsim.errors import ConfigError, DataError, ExitCode, unknown_name

if TYPE_CHECKING:
    from helixsim.accuracy.run import PointResult

SAMPLE = 400
"""Points that are simulated unless told otherwise."""

_ABOUT = """\
Simulate measured runs of served models as they were measured, and print how far off TPOT, throughput and TTFT are.

The runs are those of aiconfigurator-core (extra: operators): a closed loop of constant concurrency on one instance of
vLLM, SGLang or TensorRT-LLM. Results are kept in DIR and found again.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "accuracy",
        parents=[options.common(), options.output(Path("runs", "accuracy"), checks=False)],
        help="errors on public measurements of served models",
        description=_ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--sample",
        type=options.positive,
        default=SAMPLE,
        metavar="N",
        help=f"about N points, at least one of each GPU, engine, model and format (default: {SAMPLE})",
    )
    which.add_argument("--all", action="store_true", help="every point")
    parser.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="only points with this value: gpu=h200, engine=vllm-1, model=llama-3.1-70b (repeatable)",
    )
    parser.add_argument(
        "--operators",
        action="store_true",
        help="also with tables of measured kernels, and the tables' own static estimate",
    )
    parser.add_argument("--points", type=Path, metavar="CSV", help="file of the points (default: that of the extra)")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write a row for each point")
    parser.add_argument(
        "--update", type=Path, metavar="DIR", help="write the table of cells behind labels and bands to DIR/cells.csv"
    )
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Simulate the points and print their errors."""
    from helixsim.accuracy import points as read
    from helixsim.accuracy.run import PREDICTORS, evaluate, result_json

    rows = read.read_points(args.points or read.installed_file())
    measured = read.where([row for row in rows if isinstance(row, read.MeasuredPoint)], _conditions(args.where))
    if not measured:
        raise DataError("no measured point is like that")
    kept = measured if args.all else read.chosen(measured, args.sample)
    predictors = PREDICTORS if args.operators else PREDICTORS[:1]
    with (
        console.progress("accuracy", counted=True, quiet=args.quiet) as advance,
        options.executor(args) as executor,
    ):
        results = evaluate(
            kept,
            args.out,
            executor,
            predictors=predictors,
            force=args.force,
            progress=advance,
        )
    left_out = Counter(row.reason for row in rows if isinstance(row, read.Inexpressible))
    left_out += Counter(result.reason for result in results if result.reason is not None)
    if args.csv:
        _write_csv(args.csv, results)
    if args.update:
        _update(args.update, results)
    if args.json:
        console.print_json(
            {
                "points": [result_json(result) for result in results],
                "errors": _summary(results, predictors),
                "left_out": dict(left_out),
                "rows": len(rows),
            }
        )
        return ExitCode.OK
    _print(results, predictors, len(measured))
    for reason, count in left_out.most_common():
        print(f"left out: {count}: {reason}")
    return ExitCode.OK


def _conditions(given: list[str]) -> dict[str, str]:
    from helixsim.accuracy.points import MeasuredPoint

    known = [field.name for field in fields(MeasuredPoint)] + ["gpus"]
    conditions = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--where: expected KEY=VALUE, got {text!r}")
        if key not in known:
            raise ConfigError(f"--where: {unknown_name('key', key, known)}")
        conditions[key] = value
    return conditions


def _groupings() -> dict[str, Any]:
    from helixsim.accuracy.cells import BATCHES, bucket, family_of, weights_of

    return {
        "all": lambda point: ("all points",),
        "engine": lambda point: (point.engine,),
        "GPU, engine": lambda point: (point.gpu, point.engine),
        "family": lambda point: (family_of(point),),
        "model": lambda point: (point.model, weights_of(point), point.gpu, point.engine),
        "in flight": lambda point: (point.engine, bucket(point.concurrency, BATCHES)),
        "GPUs": lambda point: (point.engine, f"{point.gpus} GPUs"),
        "source": lambda point: (point.source,),
    }


def _summary(results: list[PointResult], predictors: tuple[str, ...]) -> dict[str, Any]:
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


def _print(results: list[PointResult], predictors: tuple[str, ...], known: int) -> None:
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


def _write_csv(path: Path, results: list[PointResult]) -> None:
    from helixsim.accuracy.run import PREDICTORS
    from helixsim.writing import write_text

    rows = []
    for result in results:
        row: dict[str, Any] = asdict(result.point) | {"output_tokens_per_s": result.point.output_tokens_per_s}
        for name in PREDICTORS:
            prediction = getattr(result, name)
            for key in ("ttft_ms", "tpot_ms", "output_tokens_per_s"):
                row[f"{name}_{key}"] = "" if prediction is None else getattr(prediction, key)
        rows.append(row)
    write_text(path, _csv_text(rows))


def _csv_text(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _update(directory: Path, results: list[PointResult]) -> None:
    from helixsim.accuracy.cells import table
    from helixsim.writing import write_text

    directory.mkdir(parents=True, exist_ok=True)
    write_text(directory / "cells.csv", _csv_text(table(results)))
