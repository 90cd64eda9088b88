"""The files of a run read back: the only input of figures and HTML, so a report can be rebuilt at any time."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from helixsim.errors import DataError
from helixsim.escape import csv_read
from helixsim.metrics.summary import SCHEMA
from helixsim.report.files import file_stem

if TYPE_CHECKING:
    import pandas as pd

Content = TypeVar("Content")


@dataclass(frozen=True)
class RunData:
    """What lies in a run directory; tables have a ``system`` column unless they are kept by system."""

    directory: Path
    document: dict[str, Any]
    placements: dict[str, dict[str, Any]]
    requests: dict[str, pd.DataFrame]
    nodes: pd.DataFrame
    links: pd.DataFrame
    series: pd.DataFrame
    node_series: pd.DataFrame
    itl: pd.DataFrame

    @property
    def systems(self) -> dict[str, dict[str, Any]]:
        """Summary of each system by name, in the order of the experiment."""
        systems: dict[str, dict[str, Any]] = self.document["systems"]
        return systems

    def window_s(self, system: str) -> tuple[float, float]:
        """Return start and end of the measurement window [s]."""
        window = self.systems[system]["helixsim"]["window"]
        return window["start_s"], window["end_s"]


def load_run(directory: Path) -> RunData:
    """Read the result files of a run.

    Raises
    ------
    DataError
        If a file is missing, unreadable or of another schema.
    """
    document = read_json(directory / "summary.json")
    if document.get("schema") != SCHEMA or "systems" not in document:
        raise DataError(
            f"{directory / 'summary.json'}: expected a summary of schema {SCHEMA}, got {document.get('schema')!r}"
        )
    stems = {name: file_stem(name) for name in document["systems"]}
    return RunData(
        directory=directory,
        document=document,
        placements={name: read_json(directory / "placements" / f"{stem}.json") for name, stem in stems.items()},
        requests={name: _read_csv(directory / "requests" / f"{stem}.csv") for name, stem in stems.items()},
        **{name: _read_csv(directory / f"{name}.csv") for name in ("nodes", "links", "series", "node_series", "itl")},
    )


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file of a run directory; ``DataError`` if that fails."""
    content = _read(path, lambda: json.loads(path.read_text(encoding="utf-8")))
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


def _read_csv(path: Path) -> pd.DataFrame:
    import pandas as pd

    def read() -> pd.DataFrame:
        table = pd.read_csv(path, keep_default_na=False, na_values=[""], low_memory=False)
        texts = [name for name, column in table.items() if column.dtype.kind in "OTU"]
        return table.assign(**{str(name): table[name].map(csv_read) for name in texts})

    return _read(path, read)


def _read(path: Path, reader: Callable[[], Content]) -> Content:
    try:
        return reader()
    except FileNotFoundError:
        raise DataError(f"{path}: missing; {path.parent} is not a complete run directory") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
