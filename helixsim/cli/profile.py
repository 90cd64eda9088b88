"""``helixsim profile``: list, show, fit and measure profiles of GPUs, links, models, engines and nodes."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from typing import cast

from helixsim.cli import options, profile_fit, profile_measure
from helixsim.hardware.formats import WEIGHTS

_FORMATS = ", ".join(WEIGHTS)
_STATED = "default: what the checkpoint states, else fp16"
_FAMILIES = ("gpus", "links", "models", "engines", "compute")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``profile`` and its own subcommands."""
    parser = subparsers.add_parser(
        "profile",
        help="GPU, link, model and compute profiles",
        description="List, show, fit and measure profiles of GPUs, links, models, engines and nodes.",
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)

    listing = actions.add_parser("list", parents=[options.common()], help="names with their main figures")
    listing.add_argument("family", nargs="?", choices=_FAMILIES, help="one family only")
    listing.set_defaults(func=_action("run_list"))

    show = actions.add_parser("show", parents=[options.common()], help="all figures of one profile, with sources")
    show.add_argument(
        "name",
        metavar="NAME",
        help="GPU, link, engine, model, MODEL/NODE_TYPE, or a file or folder",
    )
    show.add_argument("--precision", help=f"weights of a model: {_FORMATS} ({_STATED})")
    show.set_defaults(func=_action("run_show"))

    profile_fit.add_parser(actions)

    computed = actions.add_parser(
        "roofline", parents=[options.common()], help="times by the laws of kernels, and their errors on measured ones"
    )
    computed.add_argument("--gpu", metavar="NAME", help="GPU name or file")
    computed.add_argument("--model", metavar="NAME", help="model name, file or config.json")
    computed.add_argument("--gpus", type=_count, metavar="N", help="GPUs of the node, tensor-parallel (1)")
    computed.add_argument("--precision", help=f"weights: {_FORMATS} ({_STATED})")
    computed.add_argument(
        "--measured",
        action="append",
        metavar="FILE",
        help="errors on measured kernels and layers: a CSV (columns in docs/step-time.md), or `operators`, the tables "
        "of the extra; repeatable; --gpu, --model, --gpus and --precision then select rows",
    )
    computed.set_defaults(func=_action("run_roofline", "profile_roofline"))
    profile_measure.add_parser(actions)


def _action(name: str, module: str = "profile_actions") -> Callable[[argparse.Namespace], int]:
    """Return a function of a module beside this one, which is imported only when it is called."""

    def run(args: argparse.Namespace) -> int:
        actions = importlib.import_module(f"helixsim.cli.{module}")
        return cast(int, getattr(actions, name)(args))

    return run


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return value
