"""``helixsim run --timeline FILE``: what nodes and links did in a part of the run, for trace viewers."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

from helixsim.cli import console
from helixsim.errors import ConfigError, unknown_name
from helixsim.units import NS_PER_S

if TYPE_CHECKING:
    from helixsim.config.experiment import ResolvedExperiment
    from helixsim.domain.request import Window
    from helixsim.results.runset import RunSet


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of a timeline."""
    parser.add_argument(
        "--timeline",
        type=Path,
        metavar="FILE",
        help="also write what nodes, links and requests did as Trace Event JSON, for ui.perfetto.dev and "
        "chrome://tracing; compressed if the name ends in .gz",
    )
    parser.add_argument(
        "--timeline-part",
        type=_part,
        metavar="START:END",
        help="part of the simulated time to record with --timeline, for example 600s:605s (default: the first 10 s of "
        "the measurement window)",
    )
    parser.add_argument(
        "--timeline-system",
        metavar="NAME",
        action="append",
        help="a system to record with --timeline (repeatable; default: all)",
    )


def check(args: argparse.Namespace, experiment: ResolvedExperiment) -> None:
    """Refuse what cannot be recorded, before anything is simulated."""
    if args.timeline is None:
        if args.timeline_part is not None or args.timeline_system:
            raise ConfigError("--timeline-part and --timeline-system need --timeline FILE")
        return
    from helixsim.study.whatif import cases

    found = cases(experiment)
    names = [case.name for case in found]
    for name in args.timeline_system or ():
        if name not in names:
            raise ConfigError(f"--timeline-system: {unknown_name('system', name, names)}")
    if not args.timeline.parent.is_dir():
        raise ConfigError(f"--timeline: {args.timeline.parent} is no folder")
    if args.timeline.is_dir():
        raise ConfigError(f"--timeline: {args.timeline} is a folder, a file is expected")
    if args.timeline_part is not None:
        start_s, end_s = args.timeline_part[0], max(_end_s(case.experiment.workload.window) for case in found)
        if start_s >= end_s:
            raise ConfigError(f"--timeline-part: starts at {start_s:g} s, the run ends at {end_s:g} s")


def _end_s(window: Window) -> float:
    """Return when a run ends [s]; infinite: with its last request."""
    if window.drain or window.duration_ns is None:
        return math.inf
    return (window.warmup_ns + window.duration_ns) / NS_PER_S


def write(args: argparse.Namespace, experiment: ResolvedExperiment, runs: RunSet) -> None:
    """Record the part and write the file."""
    from helixsim.report.trace_events import write_trace_events
    from helixsim.study.timeline import record

    recordings = record(experiment, runs, args.timeline_system or list(runs), args.timeline_part)
    write_trace_events(args.timeline, recordings)
    if not args.quiet:
        count = sum(len(one.timeline.iterations) for one in recordings)
        console.note(f"{args.timeline} written: {count} iterations, for ui.perfetto.dev or chrome://tracing")
    for one in recordings:
        if one.timeline.about:
            console.note(f"{one.system}: {one.timeline.about}")


def _part(text: str) -> tuple[float, float]:
    """Return start and end of a part of simulated time [s]."""
    from helixsim import units

    start, colon, end = text.partition(":")
    try:
        found = units.parse(start, "time"), units.parse(end, "time")
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected START:END, for example 600s:605s, got {text!r}: {error}") from None
    if not colon or not found[0] < found[1]:
        raise argparse.ArgumentTypeError(f"expected START:END with START before END, got {text!r}")
    return found
