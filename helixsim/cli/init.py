"""``helixsim init``: a commented exp.yaml for a fleet, a model and objectives given on the command line."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from helixsim.errors import ConfigError, ExitCode


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "init",
        help="write a commented exp.yaml for your GPUs, model and objectives",
        description="Write an experiment that runs as it is: nodes, a load of conversations, three ways to use the "
        "nodes, and the objectives. What is assumed is said in its comments. The file is checked before it is written.",
    )
    parser.add_argument(
        "--gpus",
        required=True,
        metavar="FLEET",
        help="GPUs of each kind, 8xh100,4xl40s; with GPUs per node: 2x8xh100 (names: helixsim profile list gpus)",
    )
    parser.add_argument(
        "--model",
        required=True,
        metavar="MODEL",
        help="name, Hugging Face id, or path of a config.json or of the folder of a downloaded model",
    )
    parser.add_argument(
        "--slo", default="", metavar="SLO", help="objectives of 99 %% of the requests: ttft=1s,tpot=50ms (also e2el)"
    )
    parser.add_argument(
        "--rate", metavar="R", help="requests per second, also 30/min (default: 1, or as recorded in the trace)"
    )
    parser.add_argument(
        "--trace", type=Path, metavar="FILE", help="your own requests: a trace or the log of a gateway (see trace info)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("exp.yaml"), metavar="FILE", help="file to write (default: exp.yaml)"
    )
    parser.add_argument("--force", action="store_true", help="replace FILE if it exists")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Execute the command; return the exit code."""
    from helixsim import units, yamlio
    from helixsim.config.starter import parse_gpus, parse_slo, starter
    from helixsim.experiment import Experiment
    from helixsim.writing import write_text

    path: Path = args.out
    if path.exists() and not args.force:
        raise ConfigError(f"--out: {path} exists (--force replaces it)")
    if not path.parent.is_dir():
        raise ConfigError(f"--out: no such folder: {path.parent}")
    rate = None
    if args.rate is not None:
        try:
            rate = f"{units.parse(args.rate, 'rate'):.6g} /s"
        except ValueError as error:
            raise ConfigError(f"--rate: {error}") from None
    if args.trace is not None and not args.trace.is_file():
        raise ConfigError(f"--trace: no such file: {args.trace}")
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", path.stem).strip("-") or "fleet"
    fleet, slo = parse_gpus(args.gpus), parse_slo(args.slo)
    text = starter(name, args.model, fleet, slo, path.parent, rate, args.trace)
    Experiment.from_data(yamlio.loads(text, str(path)).data, directory=path.parent).resolve()
    write_text(path, text)
    print(path)
    print(f"next: helixsim validate {path}, then helixsim run {path}")
    return ExitCode.OK
