"""Azure LLM inference traces (https://github.com/Azure/AzurePublicDataset, data CC-BY 4.0).

2023 (Splitwise, ISCA'24): ``2023-11-16 18:17:03.9799600,4808,10``. 2024 (DynamoLLM, HPCA'25): the same columns, stamps
with ``+00:00``, and no fraction on whole seconds, so that no single strptime format fits; slices read both and keep
the full 100 ns.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from helixsim.units import NS_PER_S
from helixsim.workload.readers.base import ReadOptions, Row, csv_rows, fault, token_count

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")

_MINUTE_LENGTH = len("2023-11-16 18:17")
_SECOND_LENGTH = len("2023-11-16 18:17:03")
_UTC_ZONES = ("+00:00", "Z")


def rows(path: Path, _options: ReadOptions) -> Iterator[Row]:
    """Yield the rows of an Azure trace of either year."""
    minute, minute_ns = "", 0
    for line, (stamp, prompt, output) in csv_rows(path, [(name,) for name in COLUMNS]):
        if stamp[:_MINUTE_LENGTH] != minute:
            minute = stamp[:_MINUTE_LENGTH]
            minute_ns = _minute_ns(path, line, stamp)
        yield Row(
            line,
            minute_ns + _second_ns(path, line, stamp),
            token_count(path, line, "ContextTokens", prompt),
            token_count(path, line, "GeneratedTokens", output),
        )


def _minute_ns(path: Path, line: int, stamp: str) -> int:
    try:
        minute = datetime.fromisoformat(stamp[:_MINUTE_LENGTH])
    except ValueError:
        _refuse(path, line, stamp)
    return int(minute.replace(tzinfo=UTC).timestamp()) * NS_PER_S


def _second_ns(path: Path, line: int, stamp: str) -> int:
    """Return the nanoseconds within the minute."""
    seconds, rest = stamp[_MINUTE_LENGTH + 1 : _SECOND_LENGTH], stamp[_SECOND_LENGTH:]
    for zone in _UTC_ZONES:
        rest = rest.removesuffix(zone)
    fraction = rest[1:]
    is_fraction = not rest or (rest[0] == "." and fraction.isdecimal() and len(fraction) <= 9)
    if stamp[_MINUTE_LENGTH : _MINUTE_LENGTH + 1] != ":" or not seconds.isdecimal() or int(seconds) > 60:
        _refuse(path, line, stamp)
    if not is_fraction:
        _refuse(path, line, stamp)
    return int(seconds) * NS_PER_S + int(fraction.ljust(9, "0"))


def _refuse(path: Path, line: int, stamp: str) -> NoReturn:
    fault(path, line, "TIMESTAMP", f"got {stamp!r}, expected a UTC time such as '2023-11-16 18:17:03.9799600'")
