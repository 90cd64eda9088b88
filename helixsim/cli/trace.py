"""``helixsim trace``: inspect, convert and generate request traces, and fit length distributions to them."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helixsim import units
from helixsim.cli import options
from helixsim.cli import trace_values as values
from helixsim.errors import ConfigError
from helixsim.workload.spec import (
    COLUMN_PARTS,
    TIME_UNITS,
    LengthLimits,
    ReadOptions,
    SessionsSpec,
    SystemPromptsSpec,
)

if TYPE_CHECKING:
    from helixsim.domain.request import Request
    from helixsim.workload.readers.base import ReadLog, Times

_SUFFIX_FORMATS = {".csv": "csv", ".jsonl": "jsonl"}
_NO_LIMITS = LengthLimits()
_COLUMNS_HELP = """\
formats: azure, burstgpt, mooncake, sharegpt, vllm (bench serve --save-detailed), aiperf, otel (OpenTelemetry spans),
servegen, csv, jsonl; plain, .gz or .zst. aiperf, otel and servegen are read, not written.

csv and jsonl have rows with an arrival time, a prompt length and an output length. Column names of gateways, simulators
and OpenAI's API are recognised (arrival_s, timestamp, ts, created_at, ...; prompt_tokens, input_tokens,
usage.prompt_tokens, ...; output_tokens, completion_tokens, usage.completion_tokens, ...; all: traces/README.md).
Times are ISO 8601 with any offset or Z, or numbers; a unit that is not in the name is inferred from the magnitude, with
a note.

  helixsim trace info log.jsonl.gz --column arrival=ts --column prompt=usage.prompt_tokens --where status=200
"""
_LIMITS = ("min_prompt_tokens", "max_prompt_tokens", "min_output_tokens", "max_output_tokens")
_EPILOG: dict[str, Any] = {"epilog": _COLUMNS_HELP, "formatter_class": argparse.RawDescriptionHelpFormatter}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``trace`` and its commands."""
    trace = subparsers.add_parser("trace", help="inspect, convert and generate request traces")
    commands = trace.add_subparsers(dest="trace_command", metavar="COMMAND", required=True)

    info = commands.add_parser(
        "info", parents=[options.common()], help="requests, rates and lengths of a trace", **_EPILOG
    )
    info.add_argument("path", type=Path, metavar="PATH", help="trace to read")
    info.add_argument("--format", dest="from_format", metavar="NAME", help="format (default: detected)")
    _add_reading(info)
    info.set_defaults(func=run_info)

    convert = commands.add_parser(
        "convert",
        parents=[options.common()],
        help="convert, cut, filter or rescale a trace",
        **_EPILOG,
    )
    _add_in_and_out(convert)
    convert.add_argument("--to", dest="to_format", metavar="NAME", help="output format (default: by suffix of OUT)")
    _add_reading(convert)
    convert.add_argument("--start", type=values.seconds, default=0.0, metavar="T", help="drop requests before T [s]")
    convert.add_argument("--duration", type=values.seconds, metavar="T", help="duration from the start [s]")
    convert.add_argument("--rate", type=values.rate, metavar="R", help="rescale the arrival times to a mean rate [1/s]")
    _add_limits(convert)
    convert.set_defaults(func=run_convert)

    generate = commands.add_parser(
        "generate", parents=[options.common()], help="generate a trace from arrival process and length distribution"
    )
    generate.add_argument("out", type=Path, metavar="OUT", help="trace to write")
    generate.add_argument("--process", default="poisson", metavar="NAME", help="arrival process (default: poisson)")
    generate.add_argument("--rate", type=values.rate, metavar="R", help="mean rate [1/s]")
    generate.add_argument("--burstiness", type=float, default=1.0, metavar="B", help="shape of the gaps (gamma)")
    generate.add_argument("--num-requests", type=int, metavar="N", help="stop after N requests")
    generate.add_argument("--duration", type=values.seconds, metavar="T", help="stop at T [s]")
    generate.add_argument(
        "--lengths", default="azure-conversation", metavar="NAME", help="distribution (default: azure-conversation)"
    )
    generate.add_argument(
        "--length-option", action="append", default=[], metavar="KEY=VALUE", help="parameter of the distribution"
    )
    generate.add_argument("--turns", type=float, metavar="N", help="mean turns of a session (needs --think-time)")
    generate.add_argument("--think-time", type=values.seconds, metavar="T", help="mean time to the next turn [s]")
    generate.add_argument("--system-prompts", type=int, default=1, metavar="N", help="different system prompts")
    generate.add_argument("--system-prompt-tokens", type=int, metavar="N", help="length of each (default: none)")
    generate.add_argument(
        "--class",
        dest="classes",
        action="append",
        default=[],
        type=values.request_class,
        metavar="NAME=SHARE[:PRIORITY]",
        help="share of the requests that have this SLO class, 0..1, and their priority (0; the lowest is first); "
        "repeatable: the shares add up to 1",
    )
    generate.add_argument("--format", dest="to_format", metavar="NAME", help="output format (default: by suffix)")
    generate.add_argument("--seed", type=values.seed, default=0, metavar="N", help="random seed (default: 0)")
    _add_limits(generate)
    _add_writing(generate)
    generate.set_defaults(func=run_generate)

    fit = commands.add_parser(
        "fit-lengths", parents=[options.common()], help="fit a compact joint length distribution to a trace"
    )
    _add_in_and_out(fit)
    _add_reading(fit)
    fit.add_argument("--origin", default="", metavar="TEXT", help="source of the trace, stored in the file")
    fit.add_argument("--licence", default="", metavar="TEXT", help="licence of the trace, stored in the file")
    fit.set_defaults(func=run_fit_lengths)


def run_info(args: argparse.Namespace) -> int:
    """Print statistics of a trace."""
    from helixsim.workload.info import trace_info

    info = trace_info(args.path, args.from_format, _reading(args), sort=args.sort)
    document = asdict(info) | {"dropped": dict(info.dropped)}
    if args.json:
        _print_json(document)
        return 0
    print(f"{info.path} ({info.format})")
    print(f"  requests            {info.requests}")
    print(f"  span                {info.span_s:.3f} s")
    print(f"  mean rate           {_number(info.mean_rate_rps)} /s")
    print(f"  CV of gaps          {_number(info.gap_cv)}")
    print(f"  requests per minute {_number(info.per_minute_min)} .. {_number(info.per_minute_max)}")
    print(f"  equal arrival times {100 * info.equal_times_share:.1f} %")
    print("  tokens                  mean        p50        p90        p99        max")
    for name, lengths in (("prompt", info.prompt_tokens), ("output", info.output_tokens)):
        figures = (lengths.mean, lengths.p50, lengths.p90, lengths.p99, lengths.max)
        print(f"  {name:<17}" + "".join(f"{figure:>11.1f}" for figure in figures))
    print(f"  correlation         {_number(info.correlation)}")
    if info.reusable_share is not None:
        print(f"  reusable prefixes   {100 * info.reusable_share:.1f} % of the prompt tokens")
    _print_dropped(document["dropped"])
    _print_notes(args, info.warnings, info.notes)
    return 0


def run_convert(args: argparse.Namespace) -> int:
    """Write a trace in another format."""
    from helixsim.workload.readers.base import ReadLog
    from helixsim.workload.readers.registry import read_trace
    from helixsim.workload.transforms import limited, mean_rate_rps, rescaled, windowed

    to_format = _output_format(args)
    log = ReadLog()
    is_cut = args.start > 0 or args.duration is not None or args.rate is not None
    times: Times = "required" if is_cut else "optional"
    source = read_trace(args.path, args.from_format, _reading(args), times=times, sort=args.sort, log=log)
    requests = limited(windowed(source, args.start, args.duration, log.dropped), _limits(args), log.dropped)
    if args.rate is not None:
        kept = list(requests)
        recorded_rps = mean_rate_rps(kept)
        if recorded_rps is None:
            raise ConfigError("--rate: fewer than two arrival times, which cannot be rescaled")
        requests = rescaled(kept, recorded_rps / args.rate)
    return _write(args, requests, to_format, log)


def run_generate(args: argparse.Namespace) -> int:
    """Write a synthetic trace: the requests of an experiment with the same settings and seed."""
    from helixsim.domain.request import Window
    from helixsim.workload.arrivals import process_of
    from helixsim.workload.feed import make_feed
    from helixsim.workload.readers.base import ReadLog
    from helixsim.workload.spec import ArrivalsSpec, LengthsSpec, WorkloadSpec

    to_format = _output_format(args)
    arrivals = ArrivalsSpec(args.process, args.rate, args.burstiness, num_requests=args.num_requests)
    if process_of(arrivals).generate is None:
        raise ConfigError(f"--process {args.process} generates no arrival times")
    lengths = LengthsSpec(args.lengths, tuple(values.option(text) for text in args.length_option))
    duration_ns = None if args.duration is None else units.seconds_to_ns(args.duration)
    window = Window(warmup_ns=0, duration_ns=duration_ns, drain=False)
    sessions, prompts = _shared(args)
    spec = WorkloadSpec(
        None, lengths, arrivals, _limits(args), window, sessions=sessions, system_prompts=prompts,
        classes=values.all_classes(args.classes),
    )  # fmt: skip
    feed = make_feed(spec, args.seed, num_nodes=1)
    return _write(args, feed.requests, to_format, ReadLog())


def run_fit_lengths(args: argparse.Namespace) -> int:
    """Write a joint length histogram and print how well it fits."""
    from helixsim.workload.lengths.fit import fit_lengths, save_histogram
    from helixsim.workload.readers.base import ReadLog
    from helixsim.workload.readers.registry import read_trace

    _refuse_overwriting(args)
    log = ReadLog()
    histogram, errors = fit_lengths(read_trace(args.path, args.from_format, _reading(args), times="ignored", log=log))
    source = {"trace": args.path.name, "origin": args.origin, "licence": args.licence}
    save_histogram(args.out, histogram, errors, source)
    document = {"path": str(args.out), "dropped": dict(log.dropped), "fit": asdict(errors)}
    if args.json:
        _print_json(document)
    else:
        print(f"wrote {args.out}")
        for key, value in asdict(errors).items():
            print(f"  {key:<22}{value:>12g}")
        _print_dropped(log.dropped)
        _print_notes(args, log.warnings, log.notes)
    return 0


def _add_in_and_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", type=Path, metavar="IN", help="trace to read")
    parser.add_argument("out", type=Path, metavar="OUT", help="file to write")
    parser.add_argument("--from", dest="from_format", metavar="NAME", help="format of IN (default: detected)")
    _add_writing(parser)


def _add_reading(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sort", action="store_true", help="sort an unsorted trace by time instead of refusing it")
    parser.add_argument(
        "--chars-per-token", type=float, metavar="R", help="estimate token counts of text (ShareGPT; 4 suits English)"
    )
    parser.add_argument(
        "--unit", choices=tuple(TIME_UNITS), help="unit of numeric times (default: of the format, or by name or size)"
    )
    parser.add_argument(
        "--column",
        action="append",
        default=[],
        type=values.mapping,
        metavar="PART=NAME",
        help=f"column of a part in CSV or JSONL (PART: {', '.join(COLUMN_PARTS)}); usage.x is a nested JSON key",
    )
    parser.add_argument(
        "--where",
        action="append",
        default=[],
        type=values.pair,
        metavar="NAME=VALUE",
        help="keep only rows with this value in this column (repeatable: all must match)",
    )
    parser.add_argument(
        "--result",
        type=int,
        metavar="N",
        help="index of the result if the file has several (bench serve --append-result)",
    )
    parser.add_argument(
        "--block-size", type=int, metavar="N", help="tokens of a block of hash_ids (Mooncake; default: 512)"
    )
    parser.add_argument(
        "--extend-sessions",
        action="store_true",
        help="the prompt of each request of a session begins with the prompt and output of the one before",
    )


def _add_writing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--force", action="store_true", help="overwrite OUT")


def _add_limits(parser: argparse.ArgumentParser) -> None:
    for name in _LIMITS:
        flag = "--" + name.replace("_", "-")
        parser.add_argument(flag, type=int, default=getattr(_NO_LIMITS, name), metavar="N", help="limit of the length")


def _reading(args: argparse.Namespace) -> ReadOptions:
    """Return the reading options of the command line."""
    for flag, pairs in (("column", args.column), ("where", args.where)):
        names = [name for name, _ in pairs]
        if len(set(names)) < len(names):
            raise ConfigError(f"--{flag}: {next(name for name in names if names.count(name) > 1)} is given twice")
    return ReadOptions(
        args.chars_per_token,
        args.unit,
        tuple(args.column),
        tuple(args.where),
        args.result,
        args.block_size,
        args.extend_sessions or None,
    )


def _limits(args: argparse.Namespace) -> LengthLimits:
    """Return the limits on lengths."""
    for what in ("prompt", "output"):
        low, high = (getattr(args, f"{end}_{what}_tokens") for end in ("min", "max"))
        for end, value in (("min", low), ("max", high)):
            if value is not None and value < 1:
                raise ConfigError(f"--{end}-{what}-tokens: got {value}, expected 1 or more")
        if high is not None and low > high:
            raise ConfigError(f"--max-{what}-tokens: {high} is below --min-{what}-tokens {low}")
    return LengthLimits(**{name: getattr(args, name) for name in _LIMITS})


def _shared(args: argparse.Namespace) -> tuple[SessionsSpec | None, SystemPromptsSpec | None]:
    """Return sessions and system prompts."""
    if (args.turns is None) is not (args.think_time is None):
        raise ConfigError("--turns and --think-time: give both for sessions, or neither")
    if args.turns is not None and not 1 <= args.turns <= 10_000:
        raise ConfigError(f"--turns: got {args.turns:g}, expected 1 .. 10000")
    tokens, count = args.system_prompt_tokens, args.system_prompts
    if tokens is not None and not 1 <= tokens <= 10_000_000:
        raise ConfigError(f"--system-prompt-tokens: got {tokens}, expected 1 .. 10000000")
    if not 1 <= count <= 1_000_000:
        raise ConfigError(f"--system-prompts: got {count}, expected 1 .. 1000000")
    if tokens is None and count > 1:
        raise ConfigError("--system-prompts: give their length, --system-prompt-tokens N")
    sessions = None if args.turns is None else SessionsSpec(args.turns, args.think_time)
    return sessions, None if tokens is None else SystemPromptsSpec(count, tokens)


def _output_format(args: argparse.Namespace) -> str:
    """Return the output format, after checking that OUT may be written."""
    _refuse_overwriting(args)
    if args.to_format is not None:
        return str(args.to_format)
    suffixes = [suffix for suffix in args.out.suffixes if suffix not in (".gz", ".zst")]
    found = _SUFFIX_FORMATS.get(suffixes[-1] if suffixes else "")
    if found is None:
        raise ConfigError(f"{args.out}: no format has this suffix; give one with --to or --format")
    return found


def _refuse_overwriting(args: argparse.Namespace) -> None:
    if args.out.exists() and not args.force:
        raise ConfigError(f"{args.out}: exists; --force overwrites it")


def _write(args: argparse.Namespace, requests: Iterable[Request], to_format: str, log: ReadLog) -> int:
    from helixsim.workload.writers import FORMATS, write_trace

    written = write_trace(args.out, requests, to_format)
    if FORMATS[to_format].loses and not args.quiet:
        print(f"note: {to_format} cannot store {FORMATS[to_format].loses}", file=sys.stderr)
    if args.json:
        _print_json({"path": str(args.out), "format": to_format, "requests": written, "dropped": dict(log.dropped)})
    else:
        print(f"wrote {written} requests to {args.out} ({to_format})")
        _print_dropped(log.dropped)
    _print_notes(args, log.warnings, log.notes)
    return 0


def _print_dropped(dropped: Mapping[str, int]) -> None:
    for reason, count in dropped.items():
        print(f"  dropped {count} rows: {reason}")


def _print_notes(args: argparse.Namespace, warnings: Iterable[str], notes: Iterable[str]) -> None:
    """Print warnings and, unless quiet, notes about the interpretation of the file on stderr."""
    for sentence in warnings:
        print(f"warning: {args.path}: {sentence}", file=sys.stderr)
    for sentence in () if args.quiet else notes:
        print(f"note: {args.path}: {sentence}", file=sys.stderr)


def _print_json(document: object) -> None:
    print(json.dumps(document, indent=2, allow_nan=False))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
