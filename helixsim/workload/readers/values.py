"""Numbers of tokens and times from files, within limits that exclude overflow; only ASCII digits are accepted."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import NoReturn

from helixsim.errors import DataError
from helixsim.jsonio import shown
from helixsim.units import NS_PER_S

MAX_TOKENS = 1_000_000_000
"""Largest prompt or output [tokens]."""

MAX_SPAN_NS = 10 * 366 * 86_400 * NS_PER_S
"""Longest trace [ns], about ten years; longer ones indicate a wrong unit."""

_MAX_TIME_NS = 10**21
"""Largest time since any epoch [ns]; year 9999 is 2.5e20."""

_MAX_TEXT = 64
_WHOLE = re.compile(r"(\d{1,20})(?:\.0*)?", re.ASCII)
_DECIMAL = re.compile(r"\d+(?:\.\d*)?(?:[eE][+-]?\d{1,3})?|\.\d+", re.ASCII)
_TAIL = re.compile(r"(?:[.,](\d{1,9}))? ?(Z|z|UTC|[+-]\d\d(?::?\d\d)?)?", re.ASCII)
_MINUTE = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d", re.ASCII)
_MINUTE_LENGTH = len("2023-11-16 18:17")
_SECOND_LENGTH = len("2023-11-16 18:17:03")


def fault(path: Path, line: int, column: str, message: str) -> NoReturn:
    """Raise a ``DataError`` for one row."""
    place = f", column {shown(column)}" if column else ""
    raise DataError(f"{path}: row {line}{place}: {message}")


def check_lists(path: Path, lists: Mapping[str, object]) -> None:
    """Refuse values, by their keys, that are not lists of one length."""
    sizes = {}
    for key, values in lists.items():
        if not isinstance(values, list):
            raise DataError(f"{path}: {key!r}: got {shown(values)}, expected a list")
        sizes[key] = len(values)
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{key} {size}" for key, size in sizes.items())
        raise DataError(f"{path}: lists of different lengths: {told}")


def token_count(path: Path, line: int, column: str, got: object) -> int:
    """Return a number of tokens, 0 .. ``MAX_TOKENS``, from a CSV field or a JSON value."""
    tokens = -1
    if isinstance(got, str):
        if len(got) <= 10 and got.isdecimal() and got.isascii():
            tokens = int(got)
        elif len(got) <= _MAX_TEXT and (whole := _WHOLE.fullmatch(got.strip(" "))):
            tokens = int(whole[1])
    elif isinstance(got, int) and not isinstance(got, bool):
        tokens = got
    elif isinstance(got, float) and got.is_integer():
        tokens = int(got)
    if not 0 <= tokens <= MAX_TOKENS:
        fault(path, line, column, f"got {shown(got)}, expected a whole number of tokens, 0 .. {MAX_TOKENS}")
    return tokens


def time_ns(path: Path, line: int, column: str, got: object, unit_ns: int = NS_PER_S) -> int:
    """Return nanoseconds from a decimal number of units (default seconds), exact to 1 ns."""
    if isinstance(got, str):
        whole, _, fraction = got.partition(".")
        if (
            len(got) <= 30
            and got.isascii()
            and unit_ns == NS_PER_S
            and whole.isdecimal()
            and (fraction.isdecimal() or not fraction)
        ):
            found_ns = int(whole) * NS_PER_S + int(fraction[:9].ljust(9, "0"))
        else:
            found_ns = _slow_time_ns(got, unit_ns)
    elif isinstance(got, int) and not isinstance(got, bool):
        found_ns = got * unit_ns if 0 <= got <= _MAX_TIME_NS else -1
    elif isinstance(got, float):
        found_ns = _slow_time_ns(repr(got), unit_ns)
    else:
        found_ns = -1
    if not 0 <= found_ns <= _MAX_TIME_NS:
        limit = f"{_MAX_TIME_NS // unit_ns:.0e}"
        fault(path, line, column, f"got {shown(got)}, expected a finite time, 0 .. {limit} in this unit")
    return found_ns


def _slow_time_ns(text: str, unit_ns: int) -> int:
    """Return nanoseconds from any decimal number, -1 if it is none or too large."""
    text = text.strip(" ").removeprefix("-") if text.strip(" ") in ("-0", "-0.0") else text.strip(" ")
    if len(text) > _MAX_TEXT or not _DECIMAL.fullmatch(text):
        return -1
    value = Decimal(text)
    return int(value * unit_ns) if value <= _MAX_TIME_NS else -1


class Stamps:
    """Reader of calendar times such as ``2023-11-16 18:17:03.9799600``, ``...T18:17:03Z`` or ``...+01:00``.

    Times without an offset are UTC. Minutes and offsets are cached, as neighbouring rows share them.
    ``is_zoned``: whether the times have an offset, None before the first.
    """

    def __init__(self, path: Path, column: str) -> None:
        self.is_zoned: bool | None = None
        self._path = path
        self._column = column
        self._minute = ""
        self._minute_ns = 0
        self._offsets_ns: dict[str, int] = {}

    def ns(self, line: int, stamp: str) -> int:
        """Return the time since 1970 UTC [ns]."""
        if stamp[:_MINUTE_LENGTH] != self._minute:
            self._minute_ns = self._read_minute_ns(line, stamp)
            self._minute = stamp[:_MINUTE_LENGTH]
        seconds = stamp[_MINUTE_LENGTH + 1 : _SECOND_LENGTH]
        tail = _TAIL.fullmatch(stamp, _SECOND_LENGTH) if len(stamp) <= _MAX_TEXT else None
        is_second = len(seconds) == 2 and seconds.isascii() and seconds.isdecimal() and int(seconds) <= 60
        if tail is None or not is_second or stamp[_MINUTE_LENGTH] != ":":
            self._refuse(line, stamp)
        fraction, zone = tail.groups()
        if (zone is not None) is not self.is_zoned:
            self._note_zone(line, stamp, is_zoned=zone is not None)
        ns = self._minute_ns + int(seconds) * NS_PER_S + (int(fraction.ljust(9, "0")) if fraction else 0)
        return ns - self._offset_ns(line, stamp, zone) if zone else ns

    def _read_minute_ns(self, line: int, stamp: str) -> int:
        try:
            if not _MINUTE.fullmatch(stamp[:_MINUTE_LENGTH]):
                self._refuse(line, stamp)
            minute = datetime.strptime(stamp[:_MINUTE_LENGTH].replace("T", " ").replace("t", " "), "%Y-%m-%d %H:%M")
        except ValueError:
            self._refuse(line, stamp)
        return (minute.replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(minutes=1) * 60 * NS_PER_S

    def _offset_ns(self, line: int, stamp: str, zone: str) -> int:
        if zone not in self._offsets_ns:
            hours, minutes = (int(zone[1:3]), int(zone[-2:]) if len(zone) > 3 else 0) if zone[0] in "+-" else (0, 0)
            if hours > 15 or minutes > 59:
                self._refuse(line, stamp)
            self._offsets_ns[zone] = (-60 if zone[0] == "-" else 60) * (60 * hours + minutes) * NS_PER_S
        return self._offsets_ns[zone]

    def _note_zone(self, line: int, stamp: str, *, is_zoned: bool) -> None:
        if self.is_zoned is not None:
            kind = "an" if is_zoned else "no"
            message = (
                f"got {shown(stamp)} with {kind} offset from UTC, unlike the previous rows: times cannot be compared"
            )
            fault(self._path, line, self._column, message)
        self.is_zoned = is_zoned

    def _refuse(self, line: int, stamp: str) -> NoReturn:
        examples = "'2023-11-16 18:17:03.97' (UTC), '...T18:17:03Z' or '...+01:00'"
        fault(self._path, line, self._column, f"got {shown(stamp)}, expected a time such as {examples}")
