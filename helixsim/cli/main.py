"""``helixsim``: finds the command, runs it, and turns what goes wrong into a message and an exit code."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Sequence

from helixsim import __version__
from helixsim.cli.streams import claim_stdout, settle_stdout
from helixsim.errors import ExitCode, HelixsimError

COMMANDS = ("run", "place", "validate", "reproduce", "sweep", "capacity", "fleet", "compare", "report", "trace",
            "profile", "inspect")  # fmt: skip
"""Each is a module of this package with ``add_parser(subparsers)`` that imports what is heavy only when it runs.

A command whose module is not there is not offered.
"""

_EPILOG = """\
stdout holds the answer, stderr progress, warnings and errors.

exit codes:
  0    ok
  1    internal error
  2    usage or configuration
  3    unreadable or invalid trace, profile or placement
  4    no feasible placement
  5    simulation invalid (an invariant is broken, or it stalled)
  6    finished, but a requested threshold failed
  130  interrupted; finished parts are kept
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="helixsim",
        description="Simulate and plan the serving of large language models on clusters of mixed GPUs.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"helixsim {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        if importlib.util.find_spec(f"helixsim.cli.{command}") is not None:
            importlib.import_module(f"helixsim.cli.{command}").add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv
        Arguments without the program's name; None: those of the process, whose stdout is then taken over so that only
        the answer reaches it.

    Returns
    -------
    int
        The exit code, one of ``ExitCode``.
    """
    if argv is None:
        claim_stdout()
    arguments = list(sys.argv[1:] if argv is None else argv)
    args = argparse.Namespace(verbose=0)
    try:
        args = build_parser().parse_args(arguments, args)
        code: int | None = args.func(args)
        sys.stdout.flush()
    except SystemExit as stop:  # argparse: --help, --version and usage errors
        return stop.code if isinstance(stop.code, int) else ExitCode.CONFIG
    except HelixsimError as error:
        if args.verbose:
            traceback.print_exc()
        for line in str(error).splitlines():
            print(f"helixsim: error: {line}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("helixsim: interrupted; finished parts are kept, an unfinished run leaves no manifest", file=sys.stderr)
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        settle_stdout()  # the reader has gone
        return ExitCode.OK
    except OSError as error:  # a file or folder that cannot be read or written
        if args.verbose:
            traceback.print_exc()
        where = "" if error.filename is None else f"{error.filename}: "
        print(f"helixsim: error: {where}{error.strerror or error}", file=sys.stderr)
        settle_stdout()
        return ExitCode.DATA
    except Exception:
        traceback.print_exc()
        print("helixsim: internal error, please report it with the lines above", file=sys.stderr)
        return ExitCode.INTERNAL
    return ExitCode.OK if code is None else code
