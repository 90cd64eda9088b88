"""Quantities with units, and conversion factors.

Internally, sizes are bytes (``int``), bandwidths bit/s (``float``), engine times integer nanoseconds. Text such as
``"8 Gbit/s"``, ``"40 GiB"``, ``"1 ms"`` or ``"1.10 $/h"`` is used for input and output only.
"""

from __future__ import annotations

import math
import re

MISSING = "–"
"""Text of a figure that does not exist."""

NS_PER_S = 1_000_000_000
NS_PER_MS = 1_000_000
BITS_PER_BYTE = 8
GIB = 2**30

_UNITS: dict[str, dict[str, float]] = {
    "bandwidth": {
        "bit/s": 1.0, "kbit/s": 1e3, "Mbit/s": 1e6, "Gbit/s": 1e9, "Tbit/s": 1e12,
        "B/s": 8.0, "kB/s": 8e3, "MB/s": 8e6, "GB/s": 8e9, "TB/s": 8e12,
        "KiB/s": 8.0 * 2**10, "MiB/s": 8.0 * 2**20, "GiB/s": 8.0 * 2**30,
    },
    "size": {
        "B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12,
        "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30, "TiB": 2.0**40,
    },
    "time": {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0},
    "rate": {"/s": 1.0, "req/s": 1.0, "rps": 1.0, "/min": 1 / 60, "req/min": 1 / 60, "/h": 1 / 3600, "req/h": 1 / 3600},
    "flops": {"FLOP/s": 1.0, "GFLOP/s": 1e9, "TFLOP/s": 1e12, "PFLOP/s": 1e15},
    "price": {"$/h": 1.0, "USD/h": 1.0},
    "power": {"W": 1.0, "kW": 1e3},
}  # fmt: skip

_EXAMPLE = {
    "bandwidth": "8 Gbit/s", "size": "40 GiB", "time": "5 ms", "rate": "2.5 /s",
    "flops": "312 TFLOP/s", "price": "1.10 $/h", "power": "300 W",
}  # fmt: skip

_RANGE = {
    "bandwidth": (1.0, 1e18), "size": (1.0, 2.0**60), "time": (1e-9, 100 * 365 * 86400.0), "rate": (1e-12, 1e9),
    "flops": (1.0, 1e24), "price": (1e-9, 1e9), "power": (1e-3, 1e9),
}  # fmt: skip
"""Smallest and largest quantity of each dimension besides zero, in its base unit. The clock of 64-bit nanoseconds has a
range of 292 years."""

_MOST_DIGITS = 40
"""Maximum length of a number [characters]."""

_QUANTITY = re.compile(r"\s*([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)\s*([A-Za-zµ$/]+)?\s*")


def parse(text: str | float, dimension: str) -> float:
    """Return ``text`` in the base unit of ``dimension``.

    Parameters
    ----------
    text
        ``"8 Gbit/s"``; a number without unit is accepted for rates only [1/s].
    dimension
        ``bandwidth`` [bit/s], ``size`` [B], ``time`` [s], ``rate`` [1/s], ``flops`` [FLOP/s],
        ``price`` [$/h] or ``power`` [W].

    Raises
    ------
    ValueError
        If the text has no number, no unit or an unknown unit, is not finite or negative, or is neither zero nor in the
        range of its dimension.
    """
    units = _UNITS[dimension]
    if isinstance(text, (int, float)) and not isinstance(text, bool):
        if dimension != "rate":
            raise ValueError(
                f"a {dimension} needs a unit, got the bare number {text!r} (for example {_EXAMPLE[dimension]!r})"
            )
        value = _float(text, dimension)
    else:
        match = _QUANTITY.fullmatch(text) if isinstance(text, str) and len(text) <= 2 * _MOST_DIGITS else None
        if match is None:
            raise ValueError(f"not a {dimension}: {_shown(text)} (for example {_EXAMPLE[dimension]!r})")
        number, unit = match.group(1), match.group(2)
        if unit is None and dimension == "rate":
            unit = "/s"
        if unit not in units:
            got = "no unit" if unit is None else f"unit {unit!r}"
            raise ValueError(f"{dimension} {text!r} has {got} (allowed: {', '.join(units)})")
        value = float(number) * units[unit]
    if not math.isfinite(value):
        raise ValueError(f"{dimension} {text!r} is not finite")
    if value < 0:
        raise ValueError(f"{dimension} {text!r} is negative")
    low, high = _RANGE[dimension]
    if value and not low <= value <= high:
        unit = next(iter(units)) if dimension != "time" else "s"
        factor = units[unit]
        raise ValueError(
            f"{dimension} {_shown(text)} is out of range (allowed: 0, or {low / factor:g} to {high / factor:g} {unit})"
        )
    return value


def _float(number: float, dimension: str) -> float:
    try:
        return float(number)
    except OverflowError:
        raise ValueError(f"{dimension} {_shown(number)} is out of range") from None


def _shown(value: object) -> str:
    """Return a value for a message, with limited length."""
    try:
        text = repr(value)
    except ValueError:  # an integer beyond the digit limit of the interpreter
        return "of thousands of digits"
    return text if len(text) <= 2 * _MOST_DIGITS else f"{text[:_MOST_DIGITS]}... ({len(text)} characters)"


def seconds_to_ns(seconds: float) -> int:
    """Return seconds as integer nanoseconds, rounded to the nearest."""
    return round(seconds * NS_PER_S)


def format_bandwidth(bits_per_s: float) -> str:
    """Return for example ``"8 Gbit/s"``."""
    return _scaled(bits_per_s, (("Tbit/s", 1e12), ("Gbit/s", 1e9), ("Mbit/s", 1e6), ("kbit/s", 1e3), ("bit/s", 1.0)))


def format_bytes(size_bytes: float) -> str:
    """Return for example ``"40 GiB"``."""
    return _scaled(size_bytes, (("TiB", 2.0**40), ("GiB", 2.0**30), ("MiB", 2.0**20), ("KiB", 2.0**10), ("B", 1.0)))


def format_seconds(seconds: float) -> str:
    """Return for example ``"1.2 ms"``, ``"3.4 s"`` or ``"2 min 5 s"``."""
    if seconds >= 120:
        minutes, rest = divmod(round(seconds), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
    return _scaled(seconds, (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9)))


def number(value: float | None) -> str:
    """Return three significant digits, all digits before the point; a dash for None."""
    if value is None:
        return MISSING
    if abs(value) >= 100:
        return f"{value:,.0f}".replace(",", " ")
    digits = f"{value:#.3g}"
    return f"{float(digits):.6f}".rstrip("0").rstrip(".") if "e" in digits else digits.rstrip(".")


def percent(share: float | None) -> str:
    """Return a share 0..1 in percent, without the sign."""
    return MISSING if share is None else f"{100 * share:.1f}" if share < 0.1 else f"{100 * share:.0f}"


def _scaled(value: float, steps: tuple[tuple[str, float], ...]) -> str:
    for unit, factor in steps:
        if abs(value) >= factor:
            return f"{value / factor:.3g} {unit}" if value / factor < 1000 else f"{value / factor:.0f} {unit}"
    return f"0 {steps[-1][0]}" if value == 0 else f"{value / steps[-1][1]:.3g} {steps[-1][0]}"
