"""Former names of keys and values in YAML files, which are read for one more version.

Each use of a former name gives a ``FutureWarning`` that tells the new one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from helixsim.errors import ConfigError, Problem
from helixsim.yamlio import Document, KeyPath, Position, dotted


@dataclass(frozen=True, slots=True)
class Renames:
    """The former names of one file format.

    Parameters
    ----------
    keys
        Path of a former key -> new name of its last part; ``*`` in a path stands for any entry of a list.
    values
        (Path of a key, former value) -> new value.
    """

    keys: Mapping[KeyPath, str] = field(default_factory=dict)
    values: Mapping[tuple[KeyPath, str], str] = field(default_factory=dict)

    def path(self, path: tuple[str, ...], where: str) -> tuple[str, ...]:
        """Return the path of a key under its current name; ``where`` is the place that a warning gives."""
        current = path
        for length in range(1, len(path) + 1):
            name = self.keys.get(_pattern(current[:length]))
            if name is not None:
                renamed = (*current[: length - 1], name)
                _warn(where, dotted(current[:length]), dotted(renamed))
                current = (*renamed, *path[length:])
        return current

    def value(self, value: Any, path: tuple[str, ...], where: str) -> Any:
        """Return the plain data at ``path`` under current names; ``where`` is the place that warnings give.

        Raises
        ------
        ConfigError
            If a key is given under both its names.
        """
        return self._renamed(value, path, path, lambda _: where, {})

    def document(self, document: Document) -> Document:
        """Return a document under current names; positions stay those in its file.

        Raises
        ------
        ConfigError
            If a key is given under both its names.
        """
        former: dict[KeyPath, KeyPath] = {}
        data = self._renamed(document.data, (), (), document.key_where, former)
        return Document(document.name, data, _moved(document.values, former), _moved(document.keys, former))

    def _renamed(
        self, value: Any, old: KeyPath, new: KeyPath, where: Callable[[KeyPath], str], former: dict[KeyPath, KeyPath]
    ) -> Any:
        """Return the value at path ``old``, now ``new``, under current names; adds (old, new) paths to ``former``."""
        if isinstance(value, list):
            return [
                self._renamed(inner, (*old, number), (*new, number), where, former)
                for number, inner in enumerate(value)
            ]
        if isinstance(value, str):
            current = self.values.get((_pattern(new), value), value)
            if current != value:
                _warn(where(old), f"{dotted(new)}: {value}", f"{dotted(new)}: {current}")
            return current
        if not isinstance(value, dict):
            return value
        renamed: dict[str, Any] = {}
        for key, inner in value.items():
            here = (*old, key)
            name = self.keys.get(_pattern((*new, key)), key)
            if name != key:
                former[here] = (*new, name)
                if name in value:
                    message = f"former name of {dotted((*new, name))}, which is given as well: remove one of them"
                    raise ConfigError([Problem(where(here), dotted(here), message)])
                _warn(where(here), dotted(here), dotted((*new, name)))
            renamed[name] = self._renamed(inner, here, (*new, name), where, former)
        return renamed


def _pattern(path: KeyPath) -> KeyPath:
    return tuple("*" if isinstance(part, int) or part.isdecimal() else part for part in path)


def _moved(positions: Mapping[KeyPath, Position], former: Mapping[KeyPath, KeyPath]) -> Mapping[KeyPath, Position]:
    """Return positions by current paths."""
    if not former:
        return positions
    moved = {}
    for path, position in positions.items():
        renamed = next((length for length in range(len(path), 0, -1) if path[:length] in former), 0)
        moved[(*former[path[:renamed]], *path[renamed:]) if renamed else path] = position
    return moved


def _warn(where: str, old: str, new: str) -> None:
    message = f"{where}: {old} is now {new}; the next version will not read the former name"
    warnings.warn(message, FutureWarning, stacklevel=2)
