"""``helixsim profile``: list, show, fit and measure profiles of GPUs, links, models, engines and nodes."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import cast

from helixsim.cli import options, profile_measure
from helixsim.hardware.formats import WEIGHTS

_FORMATS = ", ".join(WEIGHTS)
_STATED = "default: what the checkpoint states, else fp16"
_FAMILIES = ("gpus", "links", "models", "engines", "compute")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``profile`` and its own subcommands."""
    parser = subparsers.add_parser("profile", help="GPU, link, model and compute profiles", description=__doc__)
    actions = parser.add_subparsers(metavar="ACTION", required=True)

    listing = actions.add_parser("list", parents=[options.common()], help="names with their main figures")
    listing.add_argument("family", nargs="?", choices=_FAMILIES, help="one family only")
    listing.set_defaults(func=_action("run_list"))

    show = actions.add_parser("show", parents=[options.common()], help="all figures of one profile, with sources")
    show.add_argument("name", metavar="NAME", help="GPU, link, model, MODEL/NODE_TYPE, or the path of a config.json")
    show.add_argument("--precision", help=f"weights of a model: {_FORMATS} ({_STATED})")
    show.set_defaults(func=_action("run_show"))

    fit = actions.add_parser("fit", parents=[options.common()], help="compact profiles from a CSV of per-layer timings")
    fit.add_argument("timings", type=Path, metavar="CSV", help="columns model, gpu, phase, batch_tokens, ms_per_layer")
    fit.add_argument("--limits", type=Path, metavar="CSV", help="KV tokens and batch limits by number of layers")
    fit.add_argument(
        "--memory-fraction", type=_fraction, default=0.9, metavar="F", help="engine's share of memory in --limits (0.9)"
    )
    fit.add_argument("--precision", default="fp16", help=f"weights of the timed model: {_FORMATS} (default: fp16)")
    fit.add_argument("--model", metavar="NAME", help="only rows of this model")
    fit.add_argument("--source", metavar="TEXT", help="source of the tables (default: the file name)")
    fit.add_argument("--out", type=Path, metavar="FILE", help="write the profiles of one model as YAML")
    fit.add_argument("--force", action="store_true", help="replace FILE if it exists")
    fit.add_argument("--plot", type=Path, metavar="FILE", help="draw the curves over the table's points (svg, png)")
    fit.set_defaults(func=_action("run_fit"))

    computed = actions.add_parser(
        "roofline", parents=[options.common()], help="times from datasheet figures, and their error on measured nodes"
    )
    computed.add_argument("--gpu", required=True, metavar="NAME", help="GPU name or file")
    computed.add_argument("--model", required=True, metavar="NAME", help="model name, file or config.json")
    computed.add_argument("--gpus", type=_count, default=1, metavar="N", help="GPUs of the node, tensor-parallel (1)")
    computed.add_argument("--precision", help=f"weights: {_FORMATS} ({_STATED})")
    computed.set_defaults(func=_action("run_roofline"))
    profile_measure.add_parser(actions)


def _action(name: str) -> Callable[[argparse.Namespace], int]:
    """Return a function of ``profile_actions``, which is imported only when it is called."""

    def run(args: argparse.Namespace) -> int:
        from helixsim.cli import profile_actions

        return cast(int, getattr(profile_actions, name)(args))

    return run


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
