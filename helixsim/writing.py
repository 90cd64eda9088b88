"""Files that appear whole or not at all, and never through a link that somebody has put in their place."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL
_SAFE = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_SCRATCH_CHARACTERS = 48
"""Part of the file's name that its scratch file takes over: at four bytes each far below the 255 that systems allow."""


@contextmanager
def new_file(path: Path, *, devices: bool = False) -> Iterator[BinaryIO]:
    """Yield a binary file that becomes ``path`` when the block succeeds, and vanishes when it fails.

    It is written under a random name beside ``path`` (``O_EXCL``, ``O_NOFOLLOW``) and renamed. A file, a link or an
    empty folder of that name is replaced; what a link points to is left alone. ``devices``: a device or a pipe is
    written to, as users expect of a file that they name; in a folder of ours it would block for ever.

    Raises
    ------
    OSError
        If that fails, with ``path`` as its file name; nothing is left behind.
    """
    scratch: Path | None = None
    try:
        if devices and _is_device(path):
            with os.fdopen(os.open(path, os.O_WRONLY), "wb") as device:
                yield device
            return
        scratch = path.with_name(f".{path.name[:_SCRATCH_CHARACTERS]}.{os.getpid()}-{secrets.token_hex(4)}")
        with os.fdopen(os.open(scratch, _NEW | _SAFE, 0o666), "wb") as file:  # 0o666 less the umask
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
    """Write a file whole (``new_file``)."""
    with new_file(path, devices=devices) as file:
        file.write(content)


def write_text(path: Path, text: str, *, devices: bool = False) -> None:
    """Write a file whole (``new_file``), in UTF-8 and with the line ends that the text has."""
    write_bytes(path, text.encode("utf-8"), devices=devices)


def _is_device(path: Path) -> bool:
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return stat.S_ISCHR(mode) or stat.S_ISFIFO(mode)
