"""``helixsim profile measure``: time the layers of a model on this machine and fit a profile."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from helixsim import yamlio
from helixsim.cli import console, options
from helixsim.errors import ConfigError, ExitCode
from helixsim.writing import write_text

PREFILL_TOKENS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
DECODE_SEQS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def add_parser(actions: Any) -> None:
    """Register the action of ``profile``."""
    parser = actions.add_parser(
        "measure", parents=[options.common()], help="time the layers of a model on this machine (extra [profile])"
    )
    parser.add_argument("--model", required=True, metavar="NAME", help="model name, file or config.json")
    parser.add_argument("--gpu", required=True, metavar="NAME", help="name of the GPU in the profile")
    parser.add_argument("--precision", default="fp16", help="fp16 or bf16 (default: fp16)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="where to time (default: cuda)")
    parser.add_argument("--context", type=int, default=1024, metavar="N", help="cached tokens per sequence (1024)")
    parser.add_argument(
        "--prefill-tokens",
        type=_numbers,
        default=PREFILL_TOKENS,
        metavar="N,N,...",
        help="prompt tokens of the timed batches (default: 16 to 8192)",
    )
    parser.add_argument(
        "--decode-seqs",
        type=_numbers,
        default=DECODE_SEQS,
        metavar="N,N,...",
        help="sequences of the timed decode steps (default: 1 to 256)",
    )
    parser.add_argument("--repeats", type=int, default=20, metavar="N", help="timed runs of each point (20)")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help="fitted profile (YAML); the timings go beside it, as .csv",
    )
    parser.add_argument("--force", action="store_true", help="replace FILE if it exists")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Execute the action; return the exit code."""
    from helixsim.cli.profile_actions import print_kinds
    from helixsim.hardware import catalog, compute_file
    from helixsim.hardware.fit import fit_tables
    from helixsim.hardware.measure import describe_machine, measure, write_csv

    table = args.out.with_suffix(".csv")
    if table == args.out:
        raise ConfigError(f"--out {args.out}: expected the name of a YAML file; the timings go to {table}")
    for path in (args.out, table):
        if path.exists() and not args.force:
            raise ConfigError(f"{path} exists; --force replaces it")
    model = catalog.load_model(args.model, args.precision)
    source = f"helixsim profile measure, context {args.context}: {describe_machine(args.device)}"
    with console.progress("measure", quiet=args.quiet) as advance:
        timed = measure(
            model,
            prefill_tokens=args.prefill_tokens,
            decode_seqs=args.decode_seqs,
            context_tokens=args.context,
            repeats=args.repeats,
            device=args.device,
            progress=advance,
        )
    write_csv(table, model.name, args.gpu, timed)
    kinds = fit_tables(table, None, args.precision, 0.9, source)
    write_text(args.out, yamlio.dump(compute_file.document(kinds)), devices=True)
    if args.json:
        print_kinds(kinds)
        return ExitCode.OK
    for fitted in kinds:
        for phase, curve in (("prefill", fitted.prefill), ("decode", fitted.decode)):
            print(f"{phase}: {len(curve.curve.x)} knots, median error {curve.median_error:.1%}, "
                  f"worst {curve.worst_error:.1%}")  # fmt: skip
    return ExitCode.OK


def _numbers(text: str) -> tuple[int, ...]:
    values = tuple(sorted({int(part) for part in text.split(",")}))
    if values[0] < 1:
        raise argparse.ArgumentTypeError(f"expected whole numbers above zero, got {text}")
    return values
