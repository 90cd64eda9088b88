"""What all trace formats share: opening a file, checking numbers, order in time, counting what is left out."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TextIO, cast

from helixsim.domain.request import Request
from helixsim.errors import DataError, did_you_mean
from helixsim.units import NS_PER_S, format_seconds


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How to read what a format leaves open.

    ``chars_per_token`` turns text into token counts where a file has text only (about 4 for English).
    """

    chars_per_token: float | None = None


class Row(NamedTuple):
    """One row as written: line of the file (1-based), time since any epoch [ns], tokens, and why it does not count."""

    line: int
    time_ns: int
    prompt_tokens: int
    output_tokens: int
    slo_class: str | None = None
    session: str | None = None
    failure: str | None = None


def fault(path: Path, line: int, column: str, message: str) -> NoReturn:
    """Raise the ``DataError`` of one row."""
    place = f", column {column!r}" if column else ""
    raise DataError(f"{path}: row {line}{place}: {message}")


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """Open a UTF-8 text file, unpacking ``.gz``, with every failure to read it as a ``DataError``."""
    try:
        if path.suffix == ".gz":
            with gzip.open(path, "rt", encoding="utf-8-sig", newline="") as packed:
                yield cast("TextIO", packed)
        else:
            with path.open(encoding="utf-8-sig", newline="") as plain:
                yield plain
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start} of a block)") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: damaged gzip file ({error})") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None


def csv_rows(
    path: Path, columns: Sequence[Sequence[str]], optional: Sequence[Sequence[str]] = ()
) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yield (line, fields) with the fields in the order of ``columns`` and ``optional``, found by name.

    Each column is given by the names it may have, at least two. A missing optional column yields empty fields.
    """
    with open_text(path) as handle:
        reader = csv.reader(handle, strict=True)
        try:
            header = next(reader, None)
            if header is None:
                raise DataError(f"{path}: the file is empty")
            names = [name.strip() for name in header]
            where = [_column(path, names, aliases) for aliases in columns]
            absent = len(names)
            where += [next((names.index(alias) for alias in aliases if alias in names), absent) for aliases in optional]
            pick = itemgetter(*where)
            for fields in reader:
                if len(fields) != absent:
                    if not fields:
                        continue
                    got = f"{len(fields)} fields, the header has {absent}: {','.join(fields)[:80]!r}"
                    fault(path, reader.line_num, "", got)
                fields.append("")
                yield reader.line_num, pick(fields)
        except csv.Error as error:
            fault(path, reader.line_num, "", f"damaged CSV ({error})")


def _column(path: Path, names: list[str], aliases: Sequence[str]) -> int:
    for alias in aliases:
        if alias in names:
            return names.index(alias)
    also = f" (also accepted: {', '.join(aliases[1:])})" if len(aliases) > 1 else ""
    hint = next((close for alias in aliases if (close := did_you_mean(alias, names))), "")
    raise DataError(f"{path}: row 1: no column {aliases[0]!r}{also}; the header has {', '.join(names)}{hint}")


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line, object) of a JSONL file."""
    line = 0
    with open_text(path) as handle:
        for line, text in enumerate(handle, start=1):
            if text.isspace():
                continue
            try:
                value = json.loads(text)
            except json.JSONDecodeError as error:
                fault(path, line, "", f"not JSON ({error.msg} at character {error.pos + 1}): {text.strip()[:80]!r}")
            if not isinstance(value, dict):
                fault(path, line, "", f"expected a JSON object, got {text.strip()[:80]!r}")
            yield line, value
    if line == 0:
        raise DataError(f"{path}: the file is empty")


def json_document(path: Path) -> Any:
    """Return the content of a JSON file."""
    with open_text(path) as handle:
        text = handle.read()
    if not text.strip():
        raise DataError(f"{path}: the file is empty")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: row {error.lineno}: not JSON ({error.msg} at column {error.colno})") from None


def token_count(path: Path, line: int, column: str, got: object) -> int:
    """Return a number of tokens, 0 or more, from a CSV field or a JSON value."""
    if isinstance(got, str) and got.isdecimal():
        return int(got)
    if isinstance(got, int) and not isinstance(got, bool) and got >= 0:
        return got
    return fault(path, line, column, f"got {got!r}, expected a whole number of tokens, 0 or more")


def time_ns(path: Path, line: int, column: str, got: object, unit_ns: int = NS_PER_S) -> int:
    """Return nanoseconds from a decimal number of units (default seconds), exact to 1 ns."""
    if isinstance(got, int) and not isinstance(got, bool) and got >= 0:
        return got * unit_ns
    text = str(got).strip()
    whole, _, fraction = text.partition(".")
    if unit_ns == NS_PER_S and whole.isdecimal() and (fraction.isdecimal() or not fraction):
        return int(whole) * NS_PER_S + int(fraction[:9].ljust(9, "0"))
    try:
        value = Decimal(text)
    except InvalidOperation:
        value = Decimal("nan")
    if isinstance(got, bool) or not value.is_finite() or value < 0:
        fault(path, line, column, f"got {got!r}, expected a finite time, 0 or more")
    return int(value * unit_ns)


def to_requests(path: Path, rows: Iterable[Row], dropped: Counter[str], *, sort: bool) -> Iterator[Request]:
    """Yield the rows that count as requests, from time 0 on, numbered in order.

    Parameters
    ----------
    dropped
        Counts, by reason, the rows that failed or have no prompt or output tokens (BurstGPT writes zeros for
        failed requests); final once the iterator is exhausted.
    sort
        Sort by time first (reads the whole file); otherwise a step back in time is a fault.
    """
    ordered = sorted(rows, key=lambda row: row.time_ns) if sort else rows
    origin_ns: int | None = None
    latest_ns = 0
    number = 0
    for line, at_ns, prompt_tokens, output_tokens, slo_class, session, failure in ordered:
        if at_ns < latest_ns:
            back = format_seconds((latest_ns - at_ns) / NS_PER_S)
            fault(path, line, "", f"time goes back by {back}; sort it first: helixsim trace convert --sort IN OUT")
        latest_ns = at_ns
        if failure or not prompt_tokens or not output_tokens:
            dropped[failure or ("no output tokens" if prompt_tokens else "no prompt tokens")] += 1
            continue
        if origin_ns is None:
            origin_ns = at_ns
        yield Request(number, at_ns - origin_ns, prompt_tokens, output_tokens, slo_class, session)
        number += 1
    if number == 0:
        left_out = "".join(f"; {count} rows left out: {reason}" for reason, count in dropped.items())
        raise DataError(f"{path}: no request in the file{left_out}")
