"""Whether the libraries that decide results run in the versions of ``requirements/locked.txt``."""

from __future__ import annotations

import importlib.metadata

from helixsim.datafiles import data_path
from helixsim.errors import DataError

DECIDING = ("highspy", "numpy", "simpy")
"""Libraries a figure may depend on: the solver, random numbers and rounding, the order of events."""


def locked_versions() -> dict[str, str]:
    """Return the locked version of each library, by its name in lower case."""
    path = data_path("requirements", "locked.txt")
    versions: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip() and not line.startswith("#"):
            name, equals, version = line.partition("==")
            if not equals:
                raise DataError(f"{path}:{number}: expected NAME==VERSION, got {line!r}")
            versions[name.strip().lower()] = version.strip()
    return versions


def running_versions() -> dict[str, str]:
    """Return the running version of each library that decides results."""
    return {name: importlib.metadata.version(name) for name in DECIDING}


def differences() -> list[str]:
    """Return in words which of these libraries run in another version than the locked one."""
    locked = locked_versions()
    return [
        f"{name} {version} instead of {locked.get(name, 'none')}"
        for name, version in running_versions().items()
        if version != locked.get(name)
    ]
