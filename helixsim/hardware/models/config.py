"""Keys of a ``config.json``, read with clear errors: which file, which key, what was got, what is allowed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from helixsim import jsonio
from helixsim.errors import DataError, did_you_mean

_MOST = 10**9
"""Largest figure of a ``config.json``."""


class Config:
    """The keys of one model.

    Parameters
    ----------
    where
        The file, for errors.
    data
        The keys.
    defaults
        What the class of this ``model_type`` takes for keys that are absent.
    place
        Returns the place of a key in the file; None: the file is all there is to tell.
    """

    def __init__(
        self,
        where: str,
        data: Mapping[str, Any],
        defaults: Mapping[str, Any] | None = None,
        place: Callable[[str], str] | None = None,
    ) -> None:
        self.where = where
        self.data = data
        self.defaults = defaults or {}
        self._place = place
        self.asked: set[str] = set()
        """Keys that were asked for, present or not."""

    def value(self, *keys: str) -> Any:
        """Return the value of the first key that is present, else its default, else None.

        A key that is null has no value and takes no default either, as in the classes of these files.
        """
        self.asked.update(keys)
        known = self.data if any(key in self.data for key in keys) else self.defaults
        return next((known[key] for key in keys if known.get(key) is not None), None)

    def whole(self, *keys: str, default: int | None = None, least: int = 1) -> int:
        """Return the whole number under the first key that is present.

        Raises
        ------
        DataError
            If no key is present and there is no default, or it is no whole number from ``least`` on.
        """
        value = self.value(*keys)
        if value is None:
            value = default
        if value is None:
            raise DataError(f"{self.where}: missing {keys[0]}")
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= _MOST:
            raise self.fault(keys, f"expected a whole number from {least} to {_MOST:.0e}, got {jsonio.shown(value)}")
        return value

    def number(self, *keys: str, default: float) -> float:
        """Return the number above zero under the first key that is present, else ``default``."""
        value = self.value(*keys)
        if value is None:
            return default
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value) or not 0 < value <= _MOST:
            raise self.fault(keys, f"expected a number above 0, got {jsonio.shown(value)}")
        return float(value)

    def flag(self, *keys: str, default: bool = False) -> bool:
        """Return whether the first key that is present is true, else ``default``."""
        value = self.value(*keys)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.fault(keys, f"expected true or false, got {jsonio.shown(value)}")
        return value

    def per_layer(self, key: str, count: int, allowed: Mapping[Any, str]) -> tuple[str, ...] | None:
        """Return what ``allowed`` makes of the entries of a list with one of them for each layer; None if absent.

        Entries beyond ``count`` belong to draft layers behind the model and are left out.

        Raises
        ------
        DataError
            If it is no list, too short, or has other entries.
        """
        value = self.value(key)
        if value is None:
            return None
        if not isinstance(value, Sequence) or isinstance(value, str | bytes) or len(value) < count:
            got = f"{len(value)} entries" if isinstance(value, list) else jsonio.shown(value)
            raise self.fault((key,), f"expected a list with an entry for each of {count} layers, got {got}")
        for entry in value[:count]:
            if not isinstance(entry, str | int) or entry not in allowed:
                known = ", ".join(str(name) for name in allowed)
                raise self.fault((key,), f"expected entries out of {known}, got {jsonio.shown(entry)}")
        return tuple(allowed[entry] for entry in value[:count])

    def wholes(self, key: str) -> tuple[int, ...] | None:
        """Return a list of whole numbers from 0 on; None if absent."""
        value = self.value(key)
        if value is None:
            return None
        if not isinstance(value, list) or any(not isinstance(one, int) or one < 0 for one in value):
            raise self.fault((key,), f"expected a list of whole numbers, got {jsonio.shown(value)}")
        return tuple(value)

    def section(self, key: str) -> Config | None:
        """Return the keys of a mapping inside this one; None if absent."""
        value = self.value(key)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise self.fault((key,), f"expected a mapping, got {jsonio.shown(value)}")
        return Config(f"{self.where}: {key}", value)

    def require(self, keys: Sequence[str], what: str) -> None:
        """Require all of ``keys`` at once.

        Raises
        ------
        DataError
            With all that are missing.
        """
        missing = [key for key in keys if self.value(key) is None]
        if missing:
            raise DataError(f"{self.where}: missing {', '.join(missing)} ({what} needs {', '.join(keys)})")

    def refuse_unread(self, also: Sequence[str]) -> None:
        """Refuse keys that nothing has asked for, apart from ``also``.

        Raises
        ------
        DataError
            With each of them and its place.
        """
        allowed = sorted({*self.asked, *also})
        strange = [key for key in self.data if key not in allowed]
        if strange:
            said = (
                self._at((key,)) + f": unknown key {key!r}{did_you_mean(key, allowed)} (allowed: {', '.join(allowed)})"
                for key in strange
            )
            raise DataError("\n".join(said))

    def fault(self, keys: Sequence[str], message: str) -> DataError:
        """Return the error that the first of ``keys`` that is present has a value it cannot have."""
        return DataError(f"{self._at(keys)}: {message}")

    def _at(self, keys: Sequence[str]) -> str:
        key = next((key for key in keys if self.data.get(key) is not None), keys[0])
        return f"{self._place(key) if self._place else self.where}: {key}"
