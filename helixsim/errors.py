"""Exceptions of helixsim and their exit codes on the command line.

A message gives the place, the value found, the allowed values and, for likely typing errors, a suggestion. Exceptions
take positional arguments only, because SimPy re-creates an exception as ``type(e)(*e.args)``.
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
"""Maximum number of faults listed in a message."""


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
    """Base of all expected errors; the command line prints the message and returns ``exit_code``.

    ``is_result``: the error is determined by the input, so that it can be cached and used as a verdict about a cluster.
    All other errors are failures of the machine or the installation, which imply nothing about the input.
    """

    exit_code: ExitCode = ExitCode.INTERNAL
    is_result: bool = False

    def within(self, context: str) -> Self:
        """Return the same error with the context in front of its message."""
        return type(self)(f"{context}: {self}")


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault in an input file.

    ``where`` is ``file:line:column`` as far as known, ``path`` the dotted key.
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
        """Return the same error with the context in front of each problem."""
        return type(self)(
            Problem(problem.where, problem.path, f"{context}: {problem.message}") for problem in self.problems
        )

    def __reduce__(self) -> tuple[type[ConfigError], tuple[tuple[Problem, ...]]]:
        return (type(self), (self.problems,))


class DataError(HelixsimError):
    """An unreadable or invalid trace, profile or placement file (exit code 3)."""

    exit_code = ExitCode.DATA


class InfeasibleError(HelixsimError):
    """No feasible placement exists, or none was found within the limits (exit code 4)."""

    exit_code = ExitCode.INFEASIBLE
    is_result = True


class SimulationError(HelixsimError):
    """A simulation that broke an invariant or stalled (exit code 5)."""

    exit_code = ExitCode.INVALID_SIMULATION
    is_result = True


class PluginError(HelixsimError):
    """A user-defined strategy or policy raised an exception (exit code 5); the message has file and line."""

    exit_code = ExitCode.INVALID_SIMULATION
    is_result = True


class WorkerError(HelixsimError):
    """A task without result: its process crashed repeatedly, or it raised an unexpected exception (exit code 1)."""


class ThresholdError(HelixsimError):
    """The run finished, but a requested threshold was missed (exit code 6)."""

    exit_code = ExitCode.THRESHOLD


def typed_error(error: Exception) -> HelixsimError:
    """Convert an exception to a ``HelixsimError``, which can be pickled and has an exit code.

    An exception raised in code outside helixsim, the standard library and the installed packages becomes a
    ``PluginError`` with the innermost line of that code, an ``OSError`` a ``DataError``, any other a ``WorkerError``
    with the traceback.
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
    """Whether a source file belongs to neither helixsim, the standard library nor an installed package."""
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
    """Return a text of limited length, with the middle of a longer one replaced by dots."""
    return text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 4 :]}"


def did_you_mean(got: str, allowed: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest allowed word, or an empty text.

    For keys and options; names of GPUs and models use ``same_thing``, as similar names mean different things there.
    """
    close = difflib.get_close_matches(got[:100], list(allowed), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def same_thing(got: str, allowed: Iterable[str]) -> str:
    """Return a suggestion of names that mean the same as ``got``, or an empty text.

    Suggested are the name that differs in case and punctuation only, else all names that begin with ``got``. Similar
    names are not suggested, as they mean different things (H20 and H200, a mixture of experts and a dense model).
    """
    names = sorted(allowed)
    start = got[:100].casefold()
    equal = [name for name in names if letters(name) == letters(start)]
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


def letters(name: str) -> str:
    """Return the letters and digits of a name, in lower case."""
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def unknown_name(kind: str, got: str, allowed: Iterable[str], *, advice: str = "") -> str:
    """Return the message for an unknown name, with the known ones."""
    names = sorted(allowed)
    if kind in _THINGS:
        hint = same_thing(got, names)
    else:  # names with different version numbers are not typing errors
        hint = did_you_mean(got, [name for name in names if _digits(name) == _digits(got)])
    return f"unknown {kind} {shortened(got)!r}{hint} (known: {', '.join(names)}){advice and f'; {advice}'}"


_THINGS = frozenset({"GPU", "model", "model_type", "link", "precision", "kv_precision", "profile"})
"""Kinds of names for which similar spellings mean different things."""
