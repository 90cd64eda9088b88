"""``helixsim profile roofline``: what the laws of kernels say, and how far they are off measured times."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from helixsim.cli.profile_actions import Table, aligned, outline, print_json
from helixsim.domain.curves import Curve
from helixsim.errors import ConfigError, DataError, ExitCode, shortened
from helixsim.hardware import catalog, compute_file
from helixsim.hardware.kernel_rows import KernelRow, Pair, compare, errors, read_rows
from helixsim.hardware.mig import require_alone
from helixsim.hardware.operator_library import SYSTEMS, check_version, open_tables
from helixsim.hardware.operator_rows import operator_rows
from helixsim.hardware.profile_options import ProfileOptions
from helixsim.hardware.profiles import node_profile
from helixsim.hardware.roofline import CHECK_CONTEXT_TOKENS, TimingError, roofline, timing_error
from helixsim.hardware.tensor_parallel import from_one_gpu
from helixsim.units import NS_PER_MS

OPERATORS = "operators"
_MODELS = ("llama-3.1-8b", "llama-3.1-70b", "qwen3-32b", "qwen3-30b-a3b", "mixtral-8x7b", "gpt-oss-120b", "deepseek-r1")
"""Models whose operators are looked up unless one is named."""

_WIDTHS = (1, 2, 4, 8)
_WHOLE = "all"
_WITH_REGIMES = ("layer", "all_reduce_graph", "all_reduce_eager")
"""Terms and phases that are shown by regime too."""


def run_roofline(args: argparse.Namespace) -> int:
    """Print a computed profile and its error on published nodes, or the errors on measured kernels."""
    if args.measured:
        return _run_measured(args)
    if args.gpu is None or args.model is None:
        raise ConfigError("profile roofline needs --gpu and --model, or --measured")
    model, gpu = catalog.load_model(args.model, args.precision), catalog.load_gpu(args.gpu)
    require_alone(gpu.name, args.gpus or 1, "--gpus")
    profile = roofline(model, gpu, args.gpus or 1)
    off, scaled = _timing_errors()
    facts = {
        "kind": profile.kind,
        "model": profile.model,
        "provenance": profile.provenance,
        "prefill": _points(profile.prefill, "tokens"),
        "decode": _points(profile.decode, "seqs"),
        "decode_context_ns_per_token": round(profile.decode_context_ns_per_token, 4),
        "activation_copy_ns_per_token": round(profile.activation_copy_ns_per_token, 1),
    }
    if args.json:
        print_json({"profile": facts, "errors": _dicts(off), "errors_from_one_gpu": _dicts(scaled)})
        return ExitCode.OK
    print(outline(facts) + "\n")
    over = f"(256-4096 tokens; 1-128 sequences of {CHECK_CONTEXT_TOKENS} tokens)"
    print(f"error of the roofline on measured nodes {over}\n{aligned(*_error_table(off))}\n")
    print(f"error of the timings of one GPU / n + all-reduces on measured nodes\n{aligned(*_error_table(scaled))}")
    return ExitCode.OK


def _run_measured(args: argparse.Namespace) -> int:
    """Print the errors of the laws on measured rows, by GPU, weights, phase, term and regime."""
    rows, left_out = [], Counter[str]()
    for source in args.measured:
        rows += _operator_rows(args, left_out) if source == OPERATORS else read_rows(Path(source))
    wanted = {"gpu": args.gpu, "model": args.model, "precision": args.precision, "gpus": args.gpus}
    kept = [row for row in rows if all(value in (None, getattr(row, key)) for key, value in wanted.items())]
    if len(kept) < len(rows):
        left_out["other GPUs, models, precisions or numbers of GPUs than asked for"] += len(rows) - len(kept)
    pairs, unknown = compare(kept)
    left_out += unknown
    if not pairs:
        raise DataError(f"no row to compare: {'; '.join(left_out) or 'there are none'}")
    groups = list(_groups(pairs))
    if args.json:
        found = [dict(zip(_GROUP, key, strict=True)) | asdict(errors(group)) for key, group in groups]
        print_json({"errors": found, "left_out": dict(left_out)})
        return ExitCode.OK
    lines = []
    for key, group in groups:
        known = errors(group)
        lines.append((*key, str(known.count), f"{known.median:.1%}", f"{known.p90:.1%}", f"{known.bias:+.1%}"))
    print("|computed / measured - 1|: median and 90th percentile; bias: the median with its sign\n")
    print(aligned((*_GROUP, "rows", "median", "90 %", "bias"), lines))
    for reason, count in left_out.items():
        print(f"left out: {count} rows: {reason}")
    return ExitCode.OK


_GROUP = ("gpu", "weights", "phase", "term", "regime")


def _groups(pairs: Iterable[Pair]) -> Iterator[tuple[tuple[str, ...], list[Pair]]]:
    """Yield pairs of one kind, first those of any size, then by size where that is shown."""
    groups: dict[tuple[str, ...], dict[str, list[Pair]]] = {}
    for pair in pairs:
        kind = (pair.gpu, pair.weights, pair.phase, pair.term)
        groups.setdefault(kind, {}).setdefault(pair.regime, []).append(pair)
    for key in sorted(groups, key=lambda one: (*one[:3], one[3] != "layer", one[3])):
        yield (*key, _WHOLE), [pair for group in groups[key].values() for pair in group]
        if len(groups[key]) > 1 and (key[2] in _WITH_REGIMES or key[3] in _WITH_REGIMES):
            yield from (((*key, regime), groups[key][regime]) for regime in sorted(groups[key], key=_order))


def _order(regime: str) -> tuple[bool, bool, int]:
    """Return the place of a regime: from small to large batches."""
    number = int("".join(filter(str.isdigit, regime)))
    return regime.startswith("above"), "MiB" in regime, number


def _operator_rows(args: argparse.Namespace, left_out: Counter[str]) -> list[KernelRow]:
    """Return rows of vLLM's operators: of the GPU, model and number of GPUs asked for, or of all that are known."""
    check_version()
    known = [gpu for gpu in SYSTEMS if gpu in catalog.gpu_names()]
    found: list[KernelRow] = []
    for gpu in [args.gpu] if args.gpu else known:
        tables = open_tables(gpu, "vllm")
        for name in [args.model] if args.model else _MODELS:
            model = catalog.load_model(name, args.precision)
            for gpus in [args.gpus] if args.gpus else _WIDTHS:
                try:
                    found += operator_rows(model, gpu, gpus, tables)
                except DataError as error:
                    left_out[f"{name} on {gpus} {gpu}: {shortened(str(error), 200)}"] += 1
    return found


def _points(curve: Curve, axis: str) -> dict[str, list[float]]:
    return {axis: [round(x, 1) for x in curve.x], "ms": [round(time / NS_PER_MS, 4) for time in curve.y_ns]}


def _timing_errors() -> tuple[list[TimingError], list[TimingError]]:
    """Return the errors of the roofline on every measured node, and of one GPU's timings on nodes of several."""
    found, scaled = [], []
    for name in catalog.model_names():
        for fitted in compute_file.committed(name):
            gpu_name, gpus = catalog.split_kind(fitted.kind)
            model, gpu = catalog.load_model(name, fitted.precision), catalog.load_gpu(gpu_name)
            found.append(timing_error(roofline(model, gpu, gpus), fitted))
            if gpus > 1:
                single, _ = node_profile(model, gpu, 1, ProfileOptions())
                scaled.append(timing_error(from_one_gpu(single.compute, model, gpu, gpus), fitted))
    return found, scaled


def _error_table(found: Sequence[TimingError]) -> Table:
    header = ("model", "kind", "prefill median", "worst", "decode median", "worst")
    lines: list[tuple[str, ...]] = [
        (
            error.model,
            error.kind,
            f"{error.prefill_median:.1%}",
            f"{error.prefill_worst:.1%}",
            f"{error.decode_median:.1%}",
            f"{error.decode_worst:.1%}",
        )
        for error in found
    ]
    return header, lines


def _dicts(found: Sequence[TimingError]) -> list[dict[str, Any]]:
    return [asdict(error) for error in found]
