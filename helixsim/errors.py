"""Every error helixsim raises on purpose, each with the exit code the command line returns for it.

A message says where, what was got, what is allowed and, where a slip is likely, what was probably meant.
Errors take their arguments positionally, because SimPy re-creates an exception as ``type(e)(*e.args)``.
"""

from __future__ import annotations

import difflib
import sysconfig
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Self

from helixsim.escape import printable

MOST_SHOWN = 20
"""Faults of one input that a message lists; of the others it tells the number."""


class ExitCode(IntEnum):
    """Exit codes of the command line."""

    OK = 0
    INTERNAL = 1
    CONFIG = 2
    DATA = 3
    INFEASIBLE = 4
    INVALID_SIMULATION = 5
    THRESHOLD = 6
    INTERRUPTED = 130
    TERMINATED = 143


class HelixsimError(Exception):
    """Base of all expected errors; the command line prints its text and returns ``exit_code``.

    ``is_result`` tells whether the error follows from the input alone, so that the same input gives it again: only then
    may it stand in for a result, be kept, or be a verdict about a cluster. All others are failures of the machine or of
    the installation, after which nothing is known.
    """

    exit_code: ExitCode = ExitCode.INTERNAL
    is_result: bool = False

    def within(self, context: str) -> Self:
        """Return the same error with a word on what failed in front of its message."""
        return type(self)(f"{context}: {self}")


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault in an input file.

    ``where`` is ``file:line:column`` or the best that is known of it, ``path`` the dotted key.
    """

    where: str
    path: str
    message: str

    def __str__(self) -> str:
        head = ": ".join(shortened(part) for part in (self.where, self.path) if part)
        message = shortened(self.message, 2000)
        return printable(f"{head}: {message}", one_line=True) if head else message


class ConfigError(HelixsimError):
    """One or more faults in an experiment file or on the command line (exit code 2)."""

    exit_code = ExitCode.CONFIG

    def __init__(self, problems: str | Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = (
            (Problem("", "", problems),) if isinstance(problems, str) else tuple(problems)
        )
        lines = [str(problem) for problem in self.problems[:MOST_SHOWN]]
        if len(self.problems) > MOST_SHOWN:
            lines.append(f"{len(self.problems) - MOST_SHOWN} more faults of {len(self.problems)} are not shown")
        super().__init__("\n".join(lines))

    def within(self, context: str) -> Self:
        """Return the same error with a word on what failed in front of each of its problems."""
        return type(self)(
            Problem(problem.where, problem.path, f"{context}: {problem.message}") for problem in self.problems
        )

    def __reduce__(self) -> tuple[type[ConfigError], tuple[tuple[Problem, ...]]]:
        return (type(self), (self.problems,))


class DataError(HelixsimError):
    """A trace, profile or placement file that cannot be read or makes no sense (exit code 3)."""

    exit_code = ExitCode.DATA


class InfeasibleError(HelixsimError):
    """No placement can hold the model, or none was found within the limits (exit code 4)."""

    exit_code = ExitCode.INFEASIBLE
    is_result = True


class SimulationError(HelixsimError):
    """A simulation that broke an invariant or stalled (exit code 5)."""

    exit_code = ExitCode.INVALID_SIMULATION
    is_result = True


class PluginError(HelixsimError):
    """A strategy or policy of the user's own raised an exception (exit code 5); the message names file and line."""

    exit_code = ExitCode.INVALID_SIMULATION
    is_result = True


class WorkerError(HelixsimError):
    """A task without an outcome: its process died again and again, or it failed in an unforeseen way (exit code 1)."""


class ThresholdError(HelixsimError):
    """The run finished, but a threshold the user asked for was missed (exit code 6)."""

    exit_code = ExitCode.THRESHOLD


def typed_error(error: Exception) -> HelixsimError:
    """Return an exception as one of helixsim's own, so that it can cross process boundaries and has an exit code.

    An exception that was raised in code outside helixsim, the standard library and the installed packages is a
    ``PluginError`` that names the innermost line of that code; one of the operating system is a ``DataError``; any
    other is a ``WorkerError`` with the whole traceback.
    """
    if isinstance(error, HelixsimError):
        return error
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_user_code(frame.filename)]
    if own and error.__traceback__ is not None and not _is_user_code(error.__traceback__.tb_frame.f_code.co_filename):
        where = own[-1]
        text = str(error).strip() or "no message"
        return PluginError(f"{where.filename}:{where.lineno}: in {where.name}: {type(error).__name__}: {text}")
    if isinstance(error, OSError):
        return DataError(os_error_text(error))
    if isinstance(error, MemoryError):
        return WorkerError("out of memory")
    return WorkerError("".join(traceback.format_exception(error)))


def os_error_text(error: OSError) -> str:
    """Return ``file: reason`` for an error of the operating system."""
    where = "" if error.filename is None else f"{error.filename}: "
    return f"{where}{error.strerror or error}"


_LIBRARIES = tuple(
    Path(folder).resolve()
    for folder in map(sysconfig.get_path, ("stdlib", "platstdlib", "purelib", "platlib"))
    if folder
)


def _is_user_code(filename: str) -> bool:
    """Return whether a source file belongs to neither helixsim, the standard library nor an installed package."""
    if filename.startswith("<"):
        return False
    path = Path(filename).resolve()
    package = Path(__file__).resolve().parent
    return not (
        path.is_relative_to(package)
        or {"site-packages", "dist-packages"} & set(path.parts)
        or any(path.is_relative_to(folder) for folder in _LIBRARIES)
    )


def shortened(text: str, most: int = 300) -> str:
    """Return a text that fits a message: the middle of a longer one is left out."""
    return text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 4 :]}"


def did_you_mean(got: str, allowed: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest allowed word, or an empty text.

    For words of which a wrong one does no harm, such as keys and options. Names of things that differ in kind, such as
    GPUs and models, take ``same_thing``.
    """
    close = difflib.get_close_matches(got[:100], list(allowed), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def same_thing(got: str, allowed: Iterable[str]) -> str:
    """Return a hint at names that stand for the same thing as ``got``, or an empty text.

    These are the name that differs in case and punctuation only, or else all names that begin with ``got``. A name that
    merely looks alike is another thing: an H20 is no H200, and a mixture of experts no dense model.
    """
    names = sorted(allowed)
    start = got[:100].casefold()
    equal = [name for name in names if _plain(name) == _plain(start)]
    if equal:
        return f"; did you mean {equal[0]!r}?"
    longer = [
        name
        for name in names
        if start and name.casefold().startswith(start) and not (start[-1].isdigit() and name[len(start)].isdigit())
    ]
    if len(longer) > 1:
        return f"; did you mean one of {', '.join(map(repr, longer))}?"
    return f"; did you mean {longer[0]!r}?" if longer else ""


def _digits(name: str) -> str:
    return "".join(letter for letter in name[:100] if letter.isdigit())


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def unknown_name(kind: str, got: str, allowed: Iterable[str], *, advice: str = "") -> str:
    """Return the message for a word that is not registered, listing what is."""
    names = sorted(allowed)
    if kind in _THINGS:
        hint = same_thing(got, names)
    else:  # a version is not another one spelt wrong
        hint = did_you_mean(got, [name for name in names if _digits(name) == _digits(got)])
    return f"unknown {kind} {shortened(got)!r}{hint} (known: {', '.join(names)}){advice and f'; {advice}'}"


_THINGS = frozenset({"GPU", "model", "model_type", "link", "precision", "kv_precision", "profile"})
"""Kinds of names that do not mean nearly the same when they are spelt nearly the same."""
