"""``helixsim``: parses the command line, runs the command, and reports errors as a message and an exit code."""

from __future__ import annotations

import argparse
import gc
import importlib
import importlib.util
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import helixsim
from helixsim.cli.console import set_colour
from helixsim.cli.examples import add_examples
from helixsim.cli.parsing import Parser
from helixsim.cli.streams import claim_stdout, guarded, settle_stdout, write_exactly
from helixsim.errors import ExitCode, WorkerError, typed_error

COMMANDS = ("init", "run", "place", "validate", "reproduce", "sweep", "capacity", "fleet", "compare", "report", "trace",
            "profile", "inspect", "accuracy", "completion")  # fmt: skip
"""Each is a module of this package with ``add_parser(subparsers)``; heavy imports happen only when it runs.

Commands without a module are left out.
"""

_COLLECTIONS = (50_000, 20, 20)
"""Thresholds of the garbage collector; with Python's own, imports and figures of a short run set it off constantly."""

_EPILOG = """\
Results go to stdout; progress, warnings and errors to stderr.

exit codes:
  0    ok
  1    internal error
  2    usage or configuration
  3    unreadable or invalid trace, profile or placement
  4    no feasible placement
  5    simulation invalid (an invariant is broken, or it stalled)
  6    finished, but a requested threshold failed
  130  interrupted (Ctrl-C); finished parts are kept
  143  terminated (SIGTERM); likewise
"""


class _Version(argparse.Action):
    """Prints the versions of helixsim, of Python, and of the libraries that decide results."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, dest=argparse.SUPPRESS, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        """Print and exit."""
        from helixsim.runtime.identity import library_versions

        python = ".".join(map(str, sys.version_info[:3]))
        names = {"highspy": "HiGHS (highspy)"}
        versions = {"Python": python, **library_versions()}
        print(f"helixsim {helixsim.__version__}")
        print(", ".join(f"{names.get(name, name)} {version}" for name, version in versions.items()))
        parser.exit()


def build_parser(only: str | None = None) -> Parser:
    """Return the parser of the whole command line, or of one command alone, without importing the others."""
    parser = Parser(
        prog="helixsim",
        description="Simulate and plan the serving of large language models on clusters of mixed GPUs.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--version", action=_Version, help="print the versions of helixsim and of the libraries that determine results"
    )
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS if only is None else (only,):
        if importlib.util.find_spec(f"helixsim.cli.{command}") is not None:
            importlib.import_module(f"helixsim.cli.{command}").add_parser(subparsers)
    add_examples(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv
        Arguments without the program name; None: those of the process, whose stdout is then reserved for results.

    Returns
    -------
    int
        The exit code, one of ``ExitCode``.
    """
    signalled: list[int] = []
    if argv is None:
        gc.set_threshold(*_COLLECTIONS)
        claim_stdout()
        _prefer_installed_modules()
        _stop_on_sigterm(signalled)
    arguments = list(sys.argv[1:] if argv is None else argv)
    args = argparse.Namespace(verbose=0)
    with guarded(), warnings.catch_warnings():
        warnings.showwarning = _show_warning
        code = _outcome(arguments, args)
    if argv is None:
        if code == ExitCode.INTERRUPTED:  # one that comes while the interpreter ends would replace the exit code
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        gc.freeze()  # the process ends: looking for garbage among all that was imported takes a tenth of a short run
    return ExitCode.TERMINATED if signalled and code == ExitCode.INTERRUPTED else code


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int,
    file: TextIO | None = None, line: str | None = None,
) -> None:  # fmt: skip
    """Print a warning of helixsim about its input as one line, any other with its place in the source."""
    text = f"helixsim: warning: {message}\n"
    if category is not FutureWarning or Path(helixsim.__file__).parent not in Path(filename).parents:
        text = warnings.formatwarning(message, category, filename, lineno, line)
    print(text, end="", file=sys.stderr if file is None else file)


def _prefer_installed_modules() -> None:
    """Move the working directory, which ``python -m`` puts first, to the end of the module search path.

    Otherwise a file such as ``pandas.py`` in it would be imported, and ``python -m helixsim`` would behave differently
    from ``helixsim``. The parent folder of the package itself keeps its position.
    """
    try:
        here = Path.cwd()
    except OSError:  # it has been removed
        return
    is_first = bool(sys.path) and Path(sys.path[0] or ".").resolve() == here
    if is_first and Path(helixsim.__file__).resolve().parents[1] != here:
        sys.path.append(sys.path.pop(0))


def _stop_on_sigterm(signalled: list[int]) -> None:
    """Handle SIGTERM like Ctrl-C, so that finished parts are kept; the signal is recorded in ``signalled``."""

    def stop(number: int, _frame: object) -> None:
        signalled.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)

    def repeat(unraisable: sys.UnraisableHookArgs) -> None:
        """Repeat an interrupt that was raised in a destructor or callback, where Python prints it and goes on.

        It comes again a moment later, when this hook, whose exceptions are lost as well, has ended.
        """
        if unraisable.exc_type is KeyboardInterrupt:
            again = signal.SIGTERM if signalled else signal.SIGINT
            threading.Timer(0.02, os.kill, (os.getpid(), again)).start()
        else:
            sys.__unraisablehook__(unraisable)

    sys.unraisablehook = repeat


def _outcome(arguments: Sequence[str], args: argparse.Namespace) -> int:
    """Run a command and return its exit code; errors become messages."""
    try:
        only = arguments[0] if arguments and arguments[0] in COMMANDS else None
        args = build_parser(only).parse_all(arguments, args)
        set_colour(getattr(args, "color", "auto"))
        if getattr(args, "json", False):
            write_exactly()
        code: int | None = args.func(args)
        sys.stdout.flush()
    except SystemExit as stop:  # argparse: --help, --version and usage errors
        return stop.code if isinstance(stop.code, int) else ExitCode.CONFIG
    except KeyboardInterrupt as stop:
        kept = str(stop) or "finished parts are kept, an unfinished run leaves no manifest"
        print(f"helixsim: interrupted; {kept}", file=sys.stderr)
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        settle_stdout()  # the reading end is closed
        return ExitCode.OK
    except Exception as error:
        known = typed_error(error)
        is_bug = known is not error and isinstance(known, WorkerError) and not isinstance(error, MemoryError)
        if is_bug or args.verbose:
            traceback.print_exc()
        if is_bug:
            print("helixsim: internal error, please report it with the lines above", file=sys.stderr)
        else:
            for line in str(known).splitlines():
                print(f"helixsim: error: {line}", file=sys.stderr)
        if isinstance(error, OSError):
            settle_stdout()  # it may be stdout that cannot be written
        return known.exit_code
    return ExitCode.OK if code is None else code
