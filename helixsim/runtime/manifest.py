"""``manifest.json`` of a directory of results: what they are the results of, and a digest of every file.

A directory checks out if its manifest does and every file still has its digest. Commands that can compute the results
do so again where that fails; commands that only read them refuse the directory.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import helixsim
from helixsim.errors import DataError
from helixsim.runtime.identity import code_digest, errors_digest, library_versions, plugin_digest
from helixsim.runtime.store import digest_of, open_regular
from helixsim.writing import write_text

SCHEMA = 2
MANIFEST = "manifest.json"


def identity_document(key: str, plugins: Collection[str] = ()) -> dict[str, Any]:
    """Return the part of a manifest that says which code and libraries the results are those of."""
    return {
        "content_key": key,
        "helixsim": helixsim.__version__,
        "code": code_digest(),
        "model_errors": errors_digest(),
        "libraries": library_versions(),
        "plugins": {name: plugin_digest(name) for name in sorted(plugins)},
    }


def write_manifest(directory: Path, document: Mapping[str, Any], *, rebuilt: Collection[str] = ()) -> None:
    """Write the manifest, which marks a directory as complete.

    Parameters
    ----------
    document
        Its contents, with ``content_key`` under ``identity``; the schema and the digests are added.
    rebuilt
        Names of files and folders that may be made from the others again at any time, and have no digest.
    """
    digests = {name: _digest_of(directory / name) for name in _files(directory, rebuilt)}
    whole = {"schema": SCHEMA, **document, "digests": digests}
    text = json.dumps({**whole, "sha256": digest_of(whole)}, indent=2, allow_nan=False, ensure_ascii=False)
    write_text(directory / MANIFEST, text + "\n")


def checked_manifest(directory: Path) -> dict[str, Any]:
    """Return the manifest of a directory whose files are those that were written.

    Raises
    ------
    DataError
        If the directory is not complete, or a file is missing or not as it was written.
    """
    path = directory / MANIFEST
    try:
        with open_regular(path) as file:
            document: Any = json.load(file)
    except FileNotFoundError:
        raise DataError(f"{directory}: not a finished run (it has no {MANIFEST})") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: damaged (no JSON); {_REMEDY}") from error
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema != SCHEMA:
        raise DataError(f"{path}: expected a manifest of schema {SCHEMA}, got {schema!r}; {_REMEDY}")
    if document.get("sha256") != digest_of({name: value for name, value in document.items() if name != "sha256"}):
        raise DataError(f"{path}: damaged (it is not the file that was written); {_REMEDY}")
    for name, digest in document["digests"].items():
        _check(directory / name, digest)
    return dict(document)


def finished_under(directory: Path, key: str) -> dict[str, Any] | None:
    """Return the manifest if the directory holds the results of a content key, all as they were written."""
    try:
        document = checked_manifest(directory)
    except DataError:
        return None
    return document if document["identity"]["content_key"] == key else None


_REMEDY = "compute the results again"


def _check(path: Path, digest: object) -> None:
    try:
        found = _digest_of(path)
    except FileNotFoundError:
        raise DataError(f"{path}: missing; {_REMEDY}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    if found != digest:
        raise DataError(f"{path}: damaged (it is not the file that was written); {_REMEDY}")


def _digest_of(path: Path) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(directory: Path, rebuilt: Collection[str]) -> Iterator[str]:
    """Yield the names of all files that get a digest, in order."""
    for folder, folders, names in os.walk(directory):
        inside = Path(folder).relative_to(directory)
        folders[:] = sorted(one for one in folders if (inside / one).as_posix() not in rebuilt)
        for name in sorted(names):
            whole = (inside / name).as_posix()
            if whole != MANIFEST and whole not in rebuilt:
                yield whole
