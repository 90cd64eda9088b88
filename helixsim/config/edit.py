"""Changes of an experiment: a key, its new value and the origin of the change.

All variations of an experiment are edits: ``--set``, ``Experiment.with_``, ``whatif``, the axes of a sweep, the fleets
of a search, calibration and the figures of papers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, Self

from helixsim import yamlio
from helixsim.config.former import RENAMES
from helixsim.errors import ConfigError, Problem, shortened

EXPECTED = "expected key.path=value"

_ESCAPED = re.compile("[^\\x20-\\x7e\\xa0-\\u2027\\u202a-\\ud7ff\\ue000-\\ufffd\\U00010000-\\U0010ffff]")
"""Characters that YAML rejects, or reads as line breaks, inside double quotes."""


@dataclass(frozen=True, slots=True, eq=False)
class Edit:
    """A new value for a key; created by ``Edit.of`` or ``parse_option``.

    Edits are equal if their effects are, whatever their origins.

    Parameters
    ----------
    path
        Keys from the top of the experiment; entries of lists by number: ``("systems", "0", "routing")``.
    value
        Plain data: mappings with text keys, lists, text, numbers, true, false and None; not to be modified.
    origin
        Origin given in messages: ``sweep.yaml:12:5``; empty: the equivalent ``--set`` option.
    directory
        Base folder of relative file names in the value.
    """

    path: tuple[str, ...]
    value: Any
    origin: str = field(default="", compare=False)
    directory: Path = Path()

    @classmethod
    def of(cls, key: str | Sequence[str | int], value: Any, origin: str = "", directory: str | Path = Path()) -> Self:
        """Return the edit of a dotted key (``systems.0.routing``), or of a sequence of keys and numbers.

        Raises
        ------
        ConfigError
            If the key has an empty part or the value is not plain data.
        """
        parts = tuple(key.split(".")) if isinstance(key, str) else tuple(str(part) for part in key)
        dotted = ".".join(parts)
        where = origin or f"--set {dotted}"
        if not parts or not all(parts):
            message = f"expected a key such as workload.arrivals.rate, got {shortened(repr(dotted))}"
            raise ConfigError([Problem(where, "", message)])
        if any("." in part for part in parts):
            raise ConfigError([Problem(where, "", f"a key with a dot in it cannot be edited: {parts!r}")])
        parts = RENAMES.path(parts, where)
        try:
            value = plain(value)
        except TypeError as error:
            raise ConfigError([Problem(where, dotted, str(error))]) from error
        return cls(parts, RENAMES.value(value, parts, where), origin, Path(directory))

    @property
    def key(self) -> str:
        """The dotted key."""
        return ".".join(self.path)

    @property
    def text(self) -> str:
        """``key.path=value``, the inverse of ``parse_option``."""
        written = json.dumps(self.value, ensure_ascii=False)
        return f"{self.key}={_ESCAPED.sub(_escape, written)}"

    @property
    def where(self) -> str:
        """Origin given in messages."""
        return self.origin or f"--set {self.text}"

    def as_option(self) -> str:
        """Return the equivalent option in a POSIX shell: ``--set 'seed=2'``."""
        quoted = self.text.replace("'", "'\"'\"'")
        return f"--set '{quoted}'"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Edit) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def _identity(self) -> tuple[object, ...]:
        return self.path, json.dumps(self.value, sort_keys=True), self.directory


def _escape(found: re.Match[str]) -> str:
    return f"\\u{ord(found.group()):04x}"


def parse_option(text: str) -> Edit:
    """Return the edit of a ``--set`` option: ``key.path=value`` with the value in YAML.

    Raises
    ------
    ConfigError
        If the text does not have this form.
    """
    origin = f"--set {text}"
    key, equals, value = text.partition("=")
    if not equals or not all(key.split(".")):
        raise ConfigError([Problem(origin, "", EXPECTED)])
    return Edit.of(key, yamlio.loads(value, origin).data, origin)


def edits_of(changes: Mapping[str, Any], origin: str = "", directory: str | Path = Path()) -> tuple[Edit, ...]:
    """Return one edit for each dotted key of a mapping, in its order."""
    return tuple(Edit.of(key, value, origin, directory) for key, value in changes.items())


def plain(value: Any) -> Any:
    """Return a copy of a value as plain data; tuples become lists, paths text, and numpy scalars numbers.

    Raises
    ------
    TypeError
        If the value is or contains anything else.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return float(value)
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"a key must be text, got {shortened(repr(key))}")
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple, range)):
        return [plain(one) for one in value]
    if getattr(value, "shape", None) == () and hasattr(value, "item"):  # a numpy scalar
        return plain(value.item())
    raise TypeError(f"expected plain data (mappings, lists, text, numbers), got {shortened(repr(value))}")
