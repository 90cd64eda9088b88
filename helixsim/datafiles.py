"""Paths of the data of helixsim (``profiles/``, ``traces/``, ``experiments/``) in a checkout or a wheel."""

from __future__ import annotations

from pathlib import Path

from helixsim.errors import DataError

_PACKAGE = Path(__file__).resolve().parent
_ROOTS = (_PACKAGE.parent, _PACKAGE / "_data")


def data_path(*parts: str) -> Path:
    """Return the path of a data file or folder, for example ``data_path("profiles", "gpus", "l4.yaml")``.

    Raises
    ------
    DataError
        If the file is not in this installation.
    """
    for root in _ROOTS:
        candidate = root.joinpath(*parts)
        if candidate.exists():
            return candidate
    places = " or ".join(str(root.joinpath(*parts)) for root in _ROOTS)
    raise DataError(f"{'/'.join(parts)}: no such data file in this installation of helixsim (expected {places})")
