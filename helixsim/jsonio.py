"""JSON values of results, and strict reading of external JSON.

All failures are ``DataError`` with the file name. A byte order mark is accepted. Duplicate keys in an object, too deep
nesting and numbers of thousands of digits are refused. ``NaN`` and ``Infinity`` are accepted, as benchmarks write them;
readers of values refuse them if a number must be finite.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from helixsim.errors import DataError

_SHOWN = 80
_DIGITS = 9


class _TwiceError(ValueError):
    """A duplicate key in an object."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        raise _TwiceError(f"key {shown(next(key for key in keys if keys.count(key) > 1))} occurs twice in one object")
    return found


def significant(value: float) -> float:
    """Return a number with nine significant digits, as in results."""
    return float(f"{value:.{_DIGITS}g}")


def json_values(value: Any) -> Any:
    """Return JSON values with floats rounded to nine significant digits, and None for NaN and infinity."""
    if isinstance(value, Mapping):
        return {str(key): json_values(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_values(item) for item in value]
    if hasattr(value, "tolist"):
        return json_values(value.tolist())
    if isinstance(value, float):
        return significant(value) if math.isfinite(value) else None
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_unique)


def shown(value: object) -> str:
    """Return the ``repr`` of an external value with limited length."""
    try:
        text = repr(value[: 2 * _SHOWN] if isinstance(value, str) else value)
    except ValueError:  # an integer beyond the interpreter's limit on digits
        return "a number of thousands of digits"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def loads(text: str, where: str) -> Any:
    """Return the value of one JSON document.

    Parameters
    ----------
    where
        File and row, given in messages.

    Raises
    ------
    DataError
        If the text is not JSON, or is refused (see the module).
    """
    values = documents(text, where)
    if len(values) > 1:
        raise DataError(f"{where}: has {len(values)} JSON documents, expected one")
    return values[0]


def documents(text: str, where: str) -> list[Any]:
    """Return the values of one or more consecutive JSON documents; errors as in ``loads``."""
    values: list[Any] = []
    position = _skip_space(text, 0)
    try:
        while position < len(text) or not values:
            value, position = _DECODER.raw_decode(text, position)
            values.append(value)
            position = _skip_space(text, position)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise DataError(
            f"{where}: not JSON ({error.msg} at {place}): {shown(error.doc[error.pos :][:_SHOWN])}"
        ) from None
    except _TwiceError as error:
        raise DataError(f"{where}: {error}") from None
    except RecursionError:
        raise DataError(f"{where}: objects or lists are nested too deeply") from None
    except ValueError:
        raise DataError(f"{where}: has a number of thousands of digits") from None
    return values


def _skip_space(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position


def load(path: Path) -> Any:
    """Return the value of a JSON file; ``DataError`` if it cannot be read."""
    return loads(read_text(path), str(path))


def read_text(path: Path) -> str:
    """Return the text of a UTF-8 file without byte order mark; ``DataError`` if it is empty or cannot be read."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    if not text.strip():
        raise DataError(f"{path}: the file is empty")
    return text
