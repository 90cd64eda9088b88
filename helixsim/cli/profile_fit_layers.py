"""``helixsim profile fit`` of times of layers: compact curves, with memory and limits where given."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from helixsim import yamlio
from helixsim.cli.profile_actions import aligned, fit_table, print_kinds
from helixsim.errors import ConfigError, DataError, ExitCode, unknown_name
from helixsim.hardware import compute_file
from helixsim.hardware.compute_file import FittedKind
from helixsim.writing import write_text

DEFAULT_FRACTION = 0.9


def run(args: argparse.Namespace) -> int:
    """Fit timing tables, print residuals, and write the profile with ``--out``."""
    from helixsim.hardware.fit import fit_tables

    source = args.source or f"fitted to {args.measurements.name}"
    kinds = fit_tables(
        args.measurements, args.limits, args.precision or "fp16", args.memory_fraction or DEFAULT_FRACTION, source
    )
    models = list(dict.fromkeys(fitted.model for fitted in kinds))
    if args.model is not None:
        if args.model not in models:
            raise DataError(f"{args.measurements}: {unknown_name('model', args.model, models)}")
        kinds, models = tuple(fitted for fitted in kinds if fitted.model == args.model), [args.model]
    if args.out is not None:
        _write(kinds, models, args.out, args.force)
    if args.plot is not None:
        _plot(kinds, args.measurements, args.plot)
    if args.json:
        print_kinds(kinds)
    else:
        print(aligned(*fit_table(kinds)))
    return ExitCode.OK


def _write(kinds: Sequence[FittedKind], models: Sequence[str], path: Path, force: bool) -> None:
    if len(models) != 1 or not models[0]:
        raise ConfigError(
            f"--out writes one model, the table has {', '.join(models) or 'no name'}: select one with --model"
        )
    if path.exists() and not force:
        raise ConfigError(f"{path} exists; --force replaces it")
    try:
        write_text(path, yamlio.dump(compute_file.document(kinds)), devices=True)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error


def _plot(kinds: Sequence[FittedKind], timings: Path, path: Path) -> None:
    from helixsim.hardware import measured
    from helixsim.report.profile_figures import FitPanel, write_fit_figure

    tables = measured.read_timings(timings)
    panels = []
    for fitted in kinds:
        table = measured.find(tables, fitted.model, fitted.kind)
        assert table is not None, "the kinds were fitted to these tables"
        name = f"{fitted.model}/{fitted.kind}"
        panels.append(FitPanel(f"{name} prefill", "prompt tokens", table.prefill, fitted.prefill.curve))
        panels.append(FitPanel(f"{name} decode", "sequences", table.decode, fitted.decode.curve))
    write_fit_figure(path, panels)
