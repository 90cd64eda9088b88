"""Reading trace files: plain or compressed, CSV or JSON; failures are ``DataError`` with the file name."""

from __future__ import annotations

import csv
import gzip
import importlib
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from typing import Any, TextIO, cast

from helixsim import jsonio
from helixsim.errors import DataError, did_you_mean
from helixsim.jsonio import shown
from helixsim.workload.readers.base import Reading
from helixsim.workload.readers.values import fault

_ZST_MODULES = ("compression.zstd", "backports.zstd")
"""The standard library from Python 3.14 on, else that of the extra ``zst``, with the same interface."""

_NAMES_SHOWN = 30

Pick = Callable[[list[str]], Sequence[int | None]]
"""Names of a CSV header -> positions of the required fields, None for missing ones."""


def zst(path: Path) -> Any:
    """Return a module that opens ``.zst`` files; ``DataError`` if there is none."""
    for name in _ZST_MODULES:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise DataError(f"{path}: .zst needs Python 3.14 or the extra zst: pip install 'helixsim[zst]'")


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """Open a UTF-8 text file, decompressing ``.gz`` and ``.zst``; all failures are ``DataError``."""
    damage: tuple[type[Exception], ...] = (EOFError, zlib.error, gzip.BadGzipFile)
    try:
        if path.suffix == ".gz":
            with gzip.open(path, "rt", encoding="utf-8-sig", newline="") as packed:
                yield cast("TextIO", packed)
        elif path.suffix == ".zst":
            module = zst(path)
            damage = (*damage, module.ZstdError)
            with module.open(path, "rt", encoding="utf-8-sig", newline="") as packed:
                yield packed
        else:
            with path.open(encoding="utf-8-sig", newline="") as plain:
                yield plain
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start} of a block)") from None
    except damage as error:
        kind = "zst" if path.suffix == ".zst" else "gzip"
        raise DataError(f"{path}: damaged {kind} file ({error})") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None


def csv_header(path: Path, text: str) -> list[str]:
    """Return the column names on the first line of ``text``."""
    try:
        header = next(csv.reader(text.splitlines(keepends=True), strict=True), [])
    except csv.Error as error:
        fault(path, 1, "", f"damaged CSV ({error})")
    return [name.strip() for name in header]


def csv_rows(reading: Reading, pick: Pick) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yield (line, fields) of the rows selected by ``reading.options.where``.

    ``pick`` selects at least two columns; missing ones yield empty fields.
    """
    path = reading.path
    with open_text(path) as handle:
        reader = csv.reader(handle, strict=True)
        try:
            header = next(reader, None)
            if header is None:
                raise DataError(f"{path}: the file is empty")
            names = [name.strip() for name in header]
            name, count = Counter(filter(None, names)).most_common(1)[0] if any(names) else ("", 1)
            if count > 1:
                fault(path, 1, "", f"{count} columns are named {shown(name)}")
            absent = len(names)
            fields_of = itemgetter(*(absent if at is None else at for at in pick(names)))
            wanted = [(position(path, names, name), value) for name, value in reading.options.where]
            for fields in reader:
                if len(fields) != absent:
                    if not fields:
                        continue
                    got = f"{len(fields)} fields, the header has {absent}: {shown(','.join(fields))}"
                    fault(path, reader.line_num, "", got)
                if wanted and not all(fields[at].strip() == value for at, value in wanted):
                    reading.drop()
                    continue
                fields.append("")
                yield reader.line_num, fields_of(fields)
        except csv.Error as error:
            fault(path, reader.line_num, "", f"damaged CSV ({error})")


def by_name(path: Path, required: Sequence[str], optional: Sequence[str] = ()) -> Pick:
    """Return a ``Pick`` of the columns with these names."""

    def pick(names: list[str]) -> list[int | None]:
        return [
            *(position(path, names, name) for name in required),
            *(position(path, names, name) if name in names else None for name in optional),
        ]

    return pick


def position(path: Path, names: Sequence[str], name: str) -> int:
    """Return the position of a column; ``DataError`` if there is none with this name."""
    if name not in names:
        raise DataError(f"{path}: row 1: no column {shown(name)}; {listed(names)}{did_you_mean(name, names)}")
    return names.index(name)


def listed(names: Sequence[str]) -> str:
    """Return a list of the names of a header or an object as text."""
    more = f", ... ({len(names)} in all)" if len(names) > _NAMES_SHOWN else ""
    return f"it has {', '.join(shown(name)[1:-1] for name in names[:_NAMES_SHOWN]) or 'nothing'}{more}"


def json_lines(reading: Reading) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line, object) of the rows of a JSONL file selected by ``reading.options.where``."""
    path, where = reading.path, reading.options.where
    line = 0
    with open_text(path) as handle:
        for line, text in enumerate(handle, start=1):
            if text.isspace():
                continue
            value = jsonio.loads(text, f"{path}: row {line}")
            if not isinstance(value, dict):
                fault(path, line, "", f"expected a JSON object, got {shown(text.strip())}")
            if where and not all(_as_text(nested(value, name)) == wanted for name, wanted in where):
                reading.drop()
                continue
            yield line, value
    if line == 0:
        raise DataError(f"{path}: the file is empty")


def json_documents(path: Path) -> list[Any]:
    """Return the documents of a JSON file."""
    with open_text(path) as handle:
        text = handle.read()
    if not text.strip():
        raise DataError(f"{path}: the file is empty")
    return jsonio.documents(text, str(path))


def nested(entry: dict[str, Any], name: str) -> object:
    """Return the value of a name, which may be dotted for nested objects; None if there is none."""
    if name in entry:
        return cast("object", entry[name])
    value: object = entry
    for part in name.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(part)
    return value


def flat_names(entry: dict[str, Any]) -> list[str]:
    """Return the names of the values of an object, dotted for nested objects."""
    names: list[str] = []
    for key, value in entry.items():
        names += [f"{key}.{inner}" for inner in flat_names(value)] if isinstance(value, dict) and value else [key]
    return names


def _as_text(value: object) -> str | None:
    """Return a JSON value as text, as in ``where``."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return None if value is None else str(value)
