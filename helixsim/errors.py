"""Every error helixsim raises on purpose, each with the exit code the command line returns for it.

A message says where, what was got, what is allowed and, where a slip is likely, what was probably meant.
Errors take their arguments positionally, because SimPy re-creates an exception as ``type(e)(*e.args)``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum


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


class HelixsimError(Exception):
    """Base of all expected errors; the command line prints its text and returns ``exit_code``."""

    exit_code: ExitCode = ExitCode.INTERNAL


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault in an input file.

    ``where`` is ``file:line:column`` or the best that is known of it, ``path`` the dotted key.
    """

    where: str
    path: str
    message: str

    def __str__(self) -> str:
        head = ": ".join(part for part in (self.where, self.path) if part)
        return f"{head}: {self.message}" if head else self.message


class ConfigError(HelixsimError):
    """One or more faults in an experiment file or on the command line (exit code 2)."""

    exit_code = ExitCode.CONFIG

    def __init__(self, problems: str | Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = (
            (Problem("", "", problems),) if isinstance(problems, str) else tuple(problems)
        )
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def __reduce__(self) -> tuple[type[ConfigError], tuple[tuple[Problem, ...]]]:
        return (type(self), (self.problems,))


class DataError(HelixsimError):
    """A trace, profile or placement file that cannot be read or makes no sense (exit code 3)."""

    exit_code = ExitCode.DATA


class InfeasibleError(HelixsimError):
    """No placement can hold the model, or none was found within the limits (exit code 4)."""

    exit_code = ExitCode.INFEASIBLE


class SimulationError(HelixsimError):
    """A simulation that broke an invariant or stalled (exit code 5)."""

    exit_code = ExitCode.INVALID_SIMULATION


class ThresholdError(HelixsimError):
    """The run finished, but a threshold the user asked for was missed (exit code 6)."""

    exit_code = ExitCode.THRESHOLD


def did_you_mean(got: str, allowed: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest allowed word, or an empty text."""
    close = difflib.get_close_matches(got, list(allowed), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def unknown_name(kind: str, got: str, allowed: Iterable[str]) -> str:
    """Return the message for a name that is not registered, listing what is."""
    names = sorted(allowed)
    return f"unknown {kind} {got!r}{did_you_mean(got, names)} (known: {', '.join(names)})"
