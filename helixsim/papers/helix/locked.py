"""Whether the libraries that decide results run in the versions of ``requirements/locked.txt``."""

from __future__ import annotations

from helixsim.datafiles import data_path
from helixsim.errors import DataError
from helixsim.runtime.identity import library_versions


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


def differences() -> list[str]:
    """Return in words which of these libraries run in another version than the locked one."""
    locked = locked_versions()
    return [
        f"{name} {version} instead of {locked.get(name, 'none')}"
        for name, version in library_versions().items()
        if version != locked.get(name)
    ]
