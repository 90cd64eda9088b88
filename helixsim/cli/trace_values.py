"""Values of the options of ``helixsim trace``."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence

from helixsim import units
from helixsim.errors import ConfigError, unknown_name
from helixsim.workload.readers.values import MAX_SPAN_NS
from helixsim.workload.spec import COLUMN_PARTS, FASTEST_RPS, SLOWEST_RPS, RequestClass

_CLASS_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
_LARGEST_PRIORITY = 10**9
"""Both are those of ``workload.classes`` in exp.yaml."""


def pair(text: str) -> tuple[str, str]:
    """Parse NAME=VALUE."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected NAME=VALUE")
    return name, value


def mapping(text: str) -> tuple[str, str]:
    """Parse the part of a request and its column, PART=NAME."""
    part, column = pair(text)
    if part not in COLUMN_PARTS:
        raise argparse.ArgumentTypeError(unknown_name("part", part, COLUMN_PARTS))
    return part, column


def option(text: str) -> tuple[str, float | int | str]:
    """Parse KEY=VALUE, the value a number if it can be one."""
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--length-option {text!r}: expected KEY=VALUE")
    for convert in (int, float):
        try:
            return key, convert(value)
        except ValueError:
            continue
    return key, value


def request_class(text: str) -> RequestClass:
    """Parse a class of requests, NAME=SHARE or NAME=SHARE:PRIORITY."""
    name, rest = pair(text)
    share_text, colon, priority_text = rest.partition(":")
    try:
        share, priority = float(share_text), int(priority_text) if colon else 0
    except ValueError:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected NAME=SHARE or NAME=SHARE:PRIORITY") from None
    if _CLASS_NAME.fullmatch(name) is None:
        raise argparse.ArgumentTypeError(f"class {name!r}: expected letters, digits and . _ + -, at most 100")
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"class {name}: got a share of {share:g}, expected more than 0 and at most 1")
    if abs(priority) > _LARGEST_PRIORITY:
        raise argparse.ArgumentTypeError(f"class {name}: got priority {priority}, expected -10^9 .. 10^9")
    return RequestClass(name, share, priority)


def all_classes(classes: Sequence[RequestClass]) -> tuple[RequestClass, ...]:
    """Return the classes of a load; each is given once, and their shares add up to 1."""
    names = [one.name for one in classes]
    if len(set(names)) < len(names):
        raise ConfigError(f"--class: {next(name for name in names if names.count(name) > 1)} is given twice")
    total = sum(one.share or 0.0 for one in classes)
    if classes and abs(total - 1) > 1e-6:
        raise ConfigError(f"--class: the shares must add up to 1, got {total:.6g}")
    return tuple(classes)


def seconds(text: str) -> float:
    """Parse seconds, or a time with a unit such as ``10 min``."""
    time_s = _quantity(f"{text} s" if text.isascii() and text.replace(".", "", 1).isdecimal() else text, "time")
    if time_s * units.NS_PER_S > MAX_SPAN_NS:
        raise argparse.ArgumentTypeError(f"{time_s:g} s is beyond {MAX_SPAN_NS // units.NS_PER_S} s")
    return time_s


def seed(text: str) -> int:
    """Parse a random seed, a whole number of 0 or more."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 18):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number, 0 .. {10**18 - 1}")
    return int(text)


def rate(text: str) -> float:
    """Parse a rate above 0, per second unless it has a unit such as ``150 /min``."""
    per_s = _quantity(text, "rate")
    if per_s == 0:
        raise argparse.ArgumentTypeError("a rate must be above 0")
    if not SLOWEST_RPS <= per_s <= FASTEST_RPS:
        raise argparse.ArgumentTypeError(f"got {per_s:g} requests/s, expected {SLOWEST_RPS:g} .. {FASTEST_RPS:g}")
    return per_s


def _quantity(text: str, dimension: str) -> float:
    try:
        return units.parse(text, dimension)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
