"""Atomic writing of files, without following symbolic links."""

from __future__ import annotations

import csv
import io
import os
import secrets
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL
_SAFE = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_SCRATCH_CHARACTERS = 48
"""Characters of the file name in that of the scratch file; at four bytes each, well below the limit of 255."""


@contextmanager
def new_file(path: Path, *, devices: bool = False) -> Iterator[BinaryIO]:
    """Yield a binary file that becomes ``path`` if the block succeeds, and is removed if it fails.

    The file is written under a random name in the same folder (``O_EXCL``, ``O_NOFOLLOW``) and renamed. An existing
    file, link or empty folder is replaced; the target of a link is unchanged. ``devices``: write directly to a device
    or pipe, as for files named by the user; in output folders these are replaced, since writing could block.

    Raises
    ------
    OSError
        If writing fails, with ``path`` as its file name; no file remains.
    """
    scratch: Path | None = None
    try:
        if devices and _is_device(path):
            with os.fdopen(os.open(path, os.O_WRONLY), "wb") as device:
                yield device
            return
        scratch = path.with_name(f".{path.name[:_SCRATCH_CHARACTERS]}.{os.getpid()}-{secrets.token_hex(4)}")
        with os.fdopen(os.open(scratch, _NEW | _SAFE, 0o666), "wb") as file:  # minus the umask
            yield file
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        scratch.replace(path)
    except OSError as error:
        if scratch is not None and error.filename in (str(scratch), None) and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        if scratch is not None:
            with suppress(OSError):
                scratch.unlink()


def write_bytes(path: Path, content: bytes, *, devices: bool = False) -> None:
    """Write a file atomically (``new_file``)."""
    with new_file(path, devices=devices) as file:
        file.write(content)


def write_text(path: Path, text: str, *, devices: bool = False) -> None:
    """Write a file atomically (``new_file``), in UTF-8 and with unchanged line ends."""
    write_bytes(path, text.encode("utf-8"), devices=devices)


def write_rows(
    path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None, *, devices: bool = False
) -> None:
    """Write rows with the same keys as CSV, atomically (``new_file``).

    ``columns``: their order; None: that of the first row. Text is written as it is: external text is escaped before
    (``escape.csv_text``).
    """
    with (
        new_file(path, devices=devices) as raw,
        io.TextIOWrapper(raw, encoding="utf-8", newline="", write_through=True) as file,
    ):
        writer = csv.DictWriter(file, columns or (list(rows[0]) if rows else []), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _is_device(path: Path) -> bool:
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return stat.S_ISCHR(mode) or stat.S_ISFIFO(mode)
