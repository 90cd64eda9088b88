"""``helixsim profile fit``: profiles from a user's own measurements of layers or steps, or from a log of vLLM."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from helixsim.cli import options
from helixsim.errors import ConfigError, DataError
from helixsim.hardware.formats import WEIGHTS

_OF_LAYERS = ("limits", "plot")
_OF_STEPS = ("gpu", "gpus", "engine", "engine_out", "max_num_batched_tokens", "max_num_seqs")

_EPILOG = """\
MEASUREMENTS is one of
  times of layers  CSV with columns model, gpu, phase, batch_tokens, ms_per_layer; writes timings for `timings:`
  times of steps   CSV with columns phase (prefill, decode), tokens, seqs, context, time_ms (or time_s)
  a log of vLLM    its lines on the KV cache and on throughput
The last two start from the profiles of --gpu and --engine and write profiles with the constants that fit:
--out for `gpu:`, --engine-out for `engine: {name: }`. profiles/README.md describes columns and lines.
"""


def add_parser(actions: Any) -> None:
    """Register the action of ``profile``."""
    fit = actions.add_parser(
        "fit",
        parents=[options.common()],
        help="profiles from measured layers, steps or a log of vLLM",
        description="Make profiles from your own measurements of layers or steps, or from a log of vLLM.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    fit.add_argument("measurements", type=Path, metavar="MEASUREMENTS", help="CSV or log, see below")
    fit.add_argument("--model", metavar="NAME", help="model of the steps; of a table of layers: only its rows")
    fit.add_argument("--precision", help=f"weights that were timed: {', '.join(WEIGHTS)} (layers: fp16; steps: as the "
                     "checkpoint)")  # fmt: skip
    fit.add_argument("--memory-fraction", type=_fraction, metavar="F",
                     help="engine's share of memory (layers: 0.9; log: what it states, else the engine's)")  # fmt: skip
    fit.add_argument("--source", metavar="TEXT", help="source of the measurements (default: the file name)")
    fit.add_argument("--out", type=Path, metavar="FILE", help="profile to write (YAML)")
    fit.add_argument("--force", action="store_true", help="replace FILE if it exists")
    layers = fit.add_argument_group("times of layers")
    layers.add_argument("--limits", type=Path, metavar="CSV", help="KV tokens and batch limits by number of layers")
    layers.add_argument("--plot", type=Path, metavar="FILE", help="draw the curves over the table's points (svg, png)")
    steps = fit.add_argument_group("times of steps, and logs of vLLM")
    steps.add_argument("--gpu", metavar="NAME", help="GPU profile to start from")
    steps.add_argument("--gpus", type=_count, metavar="N", help="GPUs of the node (default: what a log states, else 1)")
    steps.add_argument("--engine", metavar="NAME", help="engine profile to start from (vllm-1)")
    steps.add_argument("--engine-out", type=Path, metavar="FILE", help="engine profile with the fitted host times")
    steps.add_argument("--max-num-batched-tokens", type=_count, metavar="N", help="of the engine that wrote a log")
    steps.add_argument("--max-num-seqs", type=_count, metavar="N", help="of the engine that wrote a log")
    fit.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Fit what the file holds, print the errors, and write profiles."""
    from helixsim.cli import profile_fit_layers, profile_fit_steps
    from helixsim.hardware import step_rows, vllm_log

    path: Path = args.measurements
    cells = step_rows.first_cells(path)
    if "ms_per_layer" in cells or "batch_tokens" in cells:
        _refuse(args, _OF_STEPS, "times of layers")
        return profile_fit_layers.run(args)
    if step_rows.is_table_of_steps(cells):
        _refuse(args, _OF_LAYERS, "times of steps")
        return profile_fit_steps.run_table(args)
    if vllm_log.is_log(path):
        _refuse(args, _OF_LAYERS, "logs of vLLM")
        return profile_fit_steps.run_log(args)
    raise DataError(
        f"{path}: neither times of layers (column ms_per_layer), nor times of steps (column time_ms or time_s), nor a "
        f"log of vLLM (lines 'GPU KV cache size: N tokens', '# GPU blocks: N' or 'Avg prompt throughput: ...')"
    )


def _refuse(args: argparse.Namespace, names: tuple[str, ...], what: str) -> None:
    given = [f"--{name.replace('_', '-')}" for name in names if getattr(args, name) is not None]
    if given:
        raise ConfigError(f"{args.measurements} holds {what}, for which there is no {', '.join(given)}")


def _fraction(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"must lie in 0 .. 1, got {text}")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return value
