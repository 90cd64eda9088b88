"""Reads one YAML profile: typed values, each fault with its place in the file."""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

from helixsim import jsonio, units, yamlio
from helixsim.errors import ConfigError, DataError, did_you_mean, unknown_name

_MOST = 1e30
"""Largest number of a profile."""


class Section:
    """One mapping of a profile file; ``close`` refuses keys that nobody asked for."""

    def __init__(self, document: yamlio.Document, path: tuple[str | int, ...] = ()) -> None:
        data: Any = document.data
        for key in path:
            data = data[key]
        if not isinstance(data, dict):
            raise DataError(f"{document.where(path)}: expected a mapping of keys to values, got {data!r}")
        self._document = document
        self._path = path
        self._data: dict[str, Any] = data
        self._asked: list[str] = []

    def __contains__(self, key: str) -> bool:
        self._asked.append(key)  # optional, hence allowed
        return key in self._data

    def fault(self, key: str, message: str) -> DataError:
        """Return the error for ``key``, with its place."""
        path = (*self._path, key)
        return DataError(f"{self._document.where(path)}: {'.'.join(map(str, path))}: {message}")

    def names(self) -> tuple[str, ...]:
        """Return the keys, in file order."""
        return tuple(self._data)

    def section(self, key: str) -> Section:
        """Return the mapping under ``key``."""
        self._get(key)
        return Section(self._document, (*self._path, key))

    def text(self, key: str) -> str:
        """Return text that is not empty."""
        value = self._get(key)
        if not isinstance(value, str) or not value:
            raise self.fault(key, f"expected text, got {value!r}")
        return value

    def flag(self, key: str) -> bool:
        """Return true or false."""
        value = self._get(key)
        if not isinstance(value, bool):
            raise self.fault(key, f"expected true or false, got {value!r}")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of texts, none of them empty."""
        values = self._get(key)
        if not isinstance(values, list) or not values or not all(isinstance(v, str) and v for v in values):
            raise self.fault(key, f"expected a list of texts, got {values!r}")
        return tuple(values)

    def mapping(self, key: str) -> dict[str, Any]:
        """Return a mapping of text to any values."""
        values = self._get(key)
        if not isinstance(values, dict):
            raise self.fault(key, f"expected a mapping of keys to values, got {values!r}")
        return values

    def where(self, key: str) -> str:
        """Return the place of the value of ``key``."""
        return self._document.where((*self._path, key))

    def choice(self, key: str, allowed: Collection[str]) -> str:
        """Return one of the texts in ``allowed``."""
        value = self.text(key)
        if value not in allowed:
            raise self.fault(key, unknown_name("value", value, allowed))
        return value

    def quantity(self, key: str, dimension: str, *, zero: bool = False) -> float:
        """Return a quantity with unit, above zero, in the base unit of ``dimension`` (see ``units.parse``).

        ``zero``: nothing is allowed too.
        """
        value = self._get(key)
        try:
            number = units.parse(value, dimension)
        except ValueError as error:
            raise self.fault(key, str(error)) from error
        if number < 0 or (number == 0 and not zero):
            raise self.fault(key, f"must be above zero, got {value!r}")
        return number

    def number(self, key: str, low: float = -math.inf, high: float = math.inf) -> float:
        """Return a finite number in [low, high]."""
        return self._number(key, self._get(key), low, high)

    def integer(self, key: str, low: int = 1, high: int = 10**9) -> int:
        """Return a whole number in [low, high]."""
        value = self._get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.fault(key, f"expected a whole number from {low} to {high:.0e}, got {jsonio.shown(value)}")
        return value

    def numbers(self, key: str) -> tuple[float, ...]:
        """Return a list of finite numbers of at least zero."""
        values = self._get(key)
        if not isinstance(values, list) or not values:
            raise self.fault(key, f"expected a list of numbers, got {values!r}")
        return tuple(self._number(key, value, 0.0, math.inf) for value in values)

    def close(self) -> None:
        """Refuse keys that were never asked for."""
        for key in self._data:
            if key not in self._asked:
                allowed = ", ".join(sorted(self._asked))
                where = self._document.key_where((*self._path, key))
                raise DataError(f"{where}: unknown key {key!r}{did_you_mean(key, self._asked)} (allowed: {allowed})")

    def _get(self, key: str) -> Any:
        self._asked.append(key)
        if key not in self._data:
            raise self.fault(key, f"missing (there are: {', '.join(self._data)})")
        return self._data[key]

    def _number(self, key: str, value: object, low: float, high: float) -> float:
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not -_MOST <= value <= _MOST:
            raise self.fault(key, f"expected a finite number up to {_MOST:g}, got {jsonio.shown(value)}")
        if not low <= value <= high:
            raise self.fault(key, f"must lie in {low:g} .. {high:g}, got {value!r}")
        return float(value)


def open_profile(path: Path) -> Section:
    """Return the top mapping of the profile at ``path``.

    Raises
    ------
    DataError
        If the file cannot be read, is not strict YAML or holds no mapping.
    """
    try:
        return Section(yamlio.load(path))
    except ConfigError as error:
        raise DataError(str(error)) from error
