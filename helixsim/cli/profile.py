"""``helixsim profile``: list, show, fit and measure profiles of GPUs, links, models, engines and nodes."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import cast

from helixsim.cli import options, profile_fit, profile_measure
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

    profile_fit.add_parser(actions)

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


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return value
