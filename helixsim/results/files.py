"""Reading and writing the JSON and CSV files of results; files are written atomically."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from helixsim.errors import DataError
from helixsim.escape import csv_read, csv_text
from helixsim.results.columns import Columns, csv_lines, read
from helixsim.writing import write_text

if TYPE_CHECKING:
    import pandas as pd

Content = TypeVar("Content")


def file_stem(system: str) -> str:
    """Return the file name of a system, without suffix."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", system)


def write_json(path: Path, document: Any) -> None:
    """Write indented JSON in UTF-8; NaN is a ``ValueError``."""
    write_text(path, json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def write_csv(path: Path, table: Columns | pd.DataFrame) -> None:
    """Write a table; floats have nine significant digits, and text that looks like a formula is escaped."""
    write_text(path, csv_lines(table))


def csv_cell(text: str) -> str:
    """Return text as it stands in a CSV file: escaped, and quoted where its characters ask for it."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow([csv_text(text), ""])
    return line.getvalue().removesuffix(",\n")


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file of a run directory; ``DataError`` if it cannot be read."""
    content = _read(path, lambda: json.loads(path.read_text(encoding="utf-8")))
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


def read_csv(path: Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Return a table written by ``write_csv``, or some of its columns; ``DataError`` if it cannot be read."""
    import pandas as pd

    def read() -> pd.DataFrame:
        table = pd.read_csv(path, usecols=columns, keep_default_na=False, na_values=[""], low_memory=False)
        texts = [name for name, column in table.items() if column.dtype.kind in "OTU"]
        return table.assign(**{str(name): table[name].map(csv_read) for name in texts})

    return _read(path, read)


def read_columns(path: Path) -> Columns:
    """Return a table of a run, written by ``write_csv``; ``DataError`` if it cannot be read."""
    return _read(path, lambda: read(path))


def _read(path: Path, reader: Callable[[], Content]) -> Content:
    try:
        return reader()
    except FileNotFoundError:
        raise DataError(f"{path}: missing; {path.parent} is not a complete run directory") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
