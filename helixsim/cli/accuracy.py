"""``helixsim accuracy``: helixsim against public measurements of served models."""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helixsim.cli import console, options
from helixsim.cli.accuracy_tables import error_summary, print_errors
from helixsim.errors import ConfigError, DataError, ExitCode, unknown_name

if TYPE_CHECKING:
    from helixsim.accuracy.points import Inexpressible, MeasuredPoint
    from helixsim.accuracy.replays import Replay
    from helixsim.accuracy.run import PointResult
    from helixsim.papers.helix.fidelity import CellResult

SAMPLE = 400
"""Points that are simulated unless told otherwise."""

_SOURCE = (
    "Points: public serving runs of InferenceX and NVIDIA, from silicon_sample.csv of aiconfigurator-core (Apache-2.0)."
)

_ABOUT = """\
Simulate measured runs of served models as they were measured, and print how far off TPOT, throughput and TTFT are.

The runs are those of aiconfigurator-core (extra: operators): a closed loop of constant concurrency on one instance of
vLLM, SGLang or TensorRT-LLM, or on instances that prefill and instances that decode (--where kind=disaggregated).
Results are kept in DIR and found again.

With --replay, the requests of a measured run of your own are simulated on the system of EXP as they came. FILE is the
result of a benchmark tool with single requests (`vllm bench serve --save-result --save-detailed`), and the log of the
server or a CSV of its metrics over time. Without a result, the trace of EXP is the measured run: a CSV with arrival,
lengths and latencies. The public points are then simulated only if --sample or --all is given.
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
    parser.add_argument(
        "--replay",
        nargs="+",
        action="append",
        default=[],
        type=Path,
        metavar=("EXP", "FILE"),
        help="a measured run request by request (repeatable)",
    )
    parser.add_argument(
        "--coverage",
        action="store_true",
        help="also the share of points within 80%% bands of cells that do not have them: GPUs, families of models and "
        "more are left out in turn",
    )
    parser.add_argument("--prototype", action="store_true", help="also the measured cells of the paper's prototype")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write everything as one HTML page")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw the replays (svg)")
    parser.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write a row for each point")
    parser.add_argument(
        "--own", type=Path, metavar="CSV", help="instead: your own points, the table of `compare --add-to`"
    )
    parser.add_argument(
        "--update",
        nargs="?",
        type=Path,
        const=Path(),
        metavar="DIR",
        help="write the tables behind labels and bands to DIR (default: where this installation has them): with --all "
        "cells.csv and sample.csv, which the tests look at, with --prototype prototype.csv",
    )
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Simulate the points, replays and cells that are asked for, and print their errors."""
    from helixsim.accuracy.replays import replay
    from helixsim.cli import accuracy_own

    if args.own is not None:
        return accuracy_own.run(args)
    if args.update is not None and (args.where or args.sample or not (args.all or args.prototype)):
        raise ConfigError("--update: tables stand for all points; expected --all or --prototype, without --where")
    if args.figure and not args.replay:
        raise ConfigError("--figure: draws replays, none is given (--replay)")
    replays = [replay(experiment, files) for experiment, *files in args.replay]
    cells = _prototype(args) if args.prototype else []
    has_points = args.all or args.sample is not None or args.coverage or not (replays or cells)
    compared = _compared(args) if has_points else _Compared([], [], [])
    if args.csv:
        _write_csv(args.csv, compared.results)
    if args.update is not None:
        _update(args.update, compared.results, cells)
    if args.html or args.markdown:
        _write_documents(args, compared, replays, cells)
    if args.figure:
        _draw(args.figure, replays)
    if args.json:
        console.print_json(_document(args, compared, replays, cells))
    elif not args.markdown:
        _print_all(args, compared, replays, cells, has_points)
    return ExitCode.OK


@dataclass(frozen=True)
class _Compared:
    """Results of the points, those that cannot be expressed, and all others.

    With ``--where``, what cannot be expressed is not told: such rows have no fields to compare.
    """

    results: list[PointResult]
    inexpressible: list[Inexpressible]
    points: list[MeasuredPoint]

    def of(self, kind: str) -> _Compared:
        """Return what is of a kind of runs."""
        return _Compared(
            [result for result in self.results if result.point.kind == kind],
            [row for row in self.inexpressible if row.kind == kind],
            [point for point in self.points if point.kind == kind],
        )

    @property
    def known(self) -> int:
        """Number of points that can be expressed."""
        return len(self.points)

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.stated + len(self.inexpressible)

    @property
    def stated(self) -> int:
        """Number of rows that state the points."""
        return sum(point.rows for point in self.points)

    @property
    def left_out(self) -> Counter[str]:
        """Points without a result by reason."""
        reasons = Counter(row.reason for row in self.inexpressible)
        return reasons + Counter(result.reason for result in self.results if result.reason is not None)


def _compared(args: argparse.Namespace) -> _Compared:
    from helixsim.accuracy import points as read
    from helixsim.accuracy.disaggregated import read_runs
    from helixsim.accuracy.rows import installed_file, read_points
    from helixsim.accuracy.run import evaluate
    from helixsim.accuracy.selection import selected

    path = args.points or installed_file()
    rows = [*read_points(path), *read_runs(path)]
    all_points = [row for row in rows if isinstance(row, read.MeasuredPoint)]
    if not all_points:
        raise DataError("no measured point is like that")
    measured = selected(all_points, _conditions(args.where))
    kept = measured if args.all else read.chosen(measured, args.sample or SAMPLE)
    with (
        console.progress("accuracy", counted=True, quiet=args.quiet) as advance,
        options.executor(args) as executor,
    ):
        results = evaluate(
            kept,
            args.out,
            executor,
            predictors=_predictors(args),
            force=args.force,
            progress=advance,
        )
    others = [] if args.where else [row for row in rows if isinstance(row, read.Inexpressible)]
    return _Compared(results, others, measured)


def _predictors(args: argparse.Namespace) -> tuple[str, ...]:
    from helixsim.accuracy.run import PREDICTORS

    return PREDICTORS if args.operators else PREDICTORS[:1]


def _prototype(args: argparse.Namespace) -> list[CellResult]:
    from helixsim.papers.helix.cells import load_cells
    from helixsim.papers.helix.fidelity import evaluate

    with console.progress("prototype", quiet=args.quiet) as advance, options.executor(args) as executor:
        return evaluate(load_cells(), executor, args.out / "prototype", force=args.force, progress=advance)


def _write_documents(
    args: argparse.Namespace, compared: _Compared, replays: list[Replay], cells: list[CellResult]
) -> None:
    from helixsim.accuracy import prototype, replay_charts
    from helixsim.accuracy.causes import Causes
    from helixsim.accuracy.markdown import markdown
    from helixsim.accuracy.page import AccuracyPage, write_page
    from helixsim.accuracy.points import AGGREGATED, DISAGGREGATED

    whole, apart = (compared.of(kind) for kind in (AGGREGATED, DISAGGREGATED))
    page = AccuracyPage(
        whole.results,
        whole.inexpressible,
        cause_of=Causes(compared.points, compared.results),
        replays=[replay_charts.shown(one) for one in replays],
        prototype=prototype.shown(cells),
        expressible=whole.known,
        source=_SOURCE if compared.results else "",
        apart=apart.results,
        apart_rows=(apart.stated, apart.rows),
        apart_left_out=apart.left_out,
    )
    if args.html:
        write_page(args.html, page)
    if args.markdown and not args.json:
        print(markdown(page))


def _draw(path: Path, replays: list[Replay]) -> None:
    from helixsim.accuracy.replay_charts import distributions, series
    from helixsim.report.charts import sheet
    from helixsim.writing import write_text

    rows = [(one.name, [*distributions(one), *series(one)]) for one in replays]
    text = sheet("Measured runs replayed request by request", rows, (("ink", "measured"), ("c1", "helixsim")))
    write_text(path, text, devices=True)


def _document(
    args: argparse.Namespace, compared: _Compared, replays: list[Replay], cells: list[CellResult]
) -> dict[str, Any]:
    from helixsim.accuracy.coverage import coverage_document
    from helixsim.accuracy.points import AGGREGATED, DISAGGREGATED
    from helixsim.accuracy.replay_charts import figures
    from helixsim.accuracy.run import result_json
    from helixsim.papers.helix import fidelity

    whole, apart = (compared.of(kind) for kind in (AGGREGATED, DISAGGREGATED))
    return {
        **({"coverage": coverage_document(compared.results)} if args.coverage else {}),
        "points": [result_json(result) for result in compared.results],
        "errors": error_summary(whole.results, _predictors(args)),
        "left_out": dict(whole.left_out),
        "rows": whole.rows,
        "disaggregated": {
            "errors": error_summary(apart.results, _predictors(args)),
            "left_out": dict(apart.left_out),
            "rows": apart.rows,
        },
        "replays": {
            one.name: {
                label: {"measured": measured, "helixsim": simulated, "error": error}
                for label, measured, simulated, error in figures(one)
            }
            for one in replays
        },
        "prototype": fidelity.document(cells)["cells"] if cells else {},
    }


def _print_all(
    args: argparse.Namespace, compared: _Compared, replays: list[Replay], cells: list[CellResult], has_points: bool
) -> None:
    from helixsim.accuracy.coverage import coverage_rows
    from helixsim.accuracy.page import share_text
    from helixsim.accuracy.points import AGGREGATED, DISAGGREGATED
    from helixsim.accuracy.replay_charts import figures
    from helixsim.cli.profile_actions import aligned
    from helixsim.papers.helix.tables import fidelity_text
    from helixsim.units import number

    for kind in (AGGREGATED, DISAGGREGATED) if has_points else ():
        own = compared.of(kind)
        if not own.points:
            continue
        if kind == DISAGGREGATED:
            print("\nprefill and decode on different GPUs")
        print_errors(own.results, _predictors(args), own.known)
        for reason, count in own.left_out.most_common():
            print(f"left out: {count}: {reason}")
        if not args.where:
            print(f"the file has these points in {own.stated} of its {own.rows} rows ({own.stated / own.rows:.1%})")
    if args.coverage:
        print(f"\nwithin 80 % bands of cells without these points\n{aligned(*coverage_rows(compared.results))}\n")
    for one in replays:
        rows = [
            (label, number(measured), number(simulated), share_text(error, True))
            for label, measured, simulated, error in figures(one)
        ]
        print(f"{one.name}: {one.setting}\n{aligned(('', 'measured', 'helixsim', 'error'), rows)}\n")
    if cells:
        print(fidelity_text(cells))


def _conditions(given: list[str]) -> dict[str, str]:
    from helixsim.accuracy.points import MeasuredPoint

    known = [field.name for field in fields(MeasuredPoint)] + ["gpus", "kind"]
    conditions = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--where: expected KEY=VALUE, got {text!r}")
        if key not in known:
            raise ConfigError(f"--where: {unknown_name('key', key, known)}")
        conditions[key] = value
    return conditions


def _write_csv(path: Path, results: list[PointResult]) -> None:
    from helixsim.accuracy.run import PREDICTORS
    from helixsim.writing import write_rows

    rows = []
    for result in results:
        row: dict[str, Any] = asdict(result.point) | {
            "kind": result.point.kind,
            "output_tokens_per_s": result.point.output_tokens_per_s,
        }
        for name in PREDICTORS:
            prediction = getattr(result, name)
            for key in ("ttft_ms", "tpot_ms", "output_tokens_per_s"):
                row[f"{name}_{key}"] = "" if prediction is None else getattr(prediction, key)
        rows.append(row)
    write_rows(path, rows, devices=True)


def _update(directory: Path, results: list[PointResult], cells: list[CellResult]) -> None:
    from helixsim.accuracy import prototype_cells, sample
    from helixsim.accuracy.cells import table
    from helixsim.accuracy.points import chosen
    from helixsim.datafiles import data_path
    from helixsim.metrics.error_cells import DIFFERENCES
    from helixsim.metrics.model_error import differences
    from helixsim.writing import write_rows, write_text

    directory = data_path("profiles", "accuracy") if directory == Path() else directory
    directory.mkdir(parents=True, exist_ok=True)
    if results:
        write_rows(directory / "cells.csv", table(results))
        predicted = {result.point: result for result in results if result.analytic is not None}
        kept = [predicted[point] for point in chosen(list(predicted), sample.SIZE)]
        write_rows(directory / "sample.csv", sample.rows(kept))
    if cells:
        write_rows(directory / "prototype.csv", prototype_cells.rows(cells))
    if directory.samefile(data_path("profiles", "accuracy")):
        write_text(directory / DIFFERENCES, differences())
