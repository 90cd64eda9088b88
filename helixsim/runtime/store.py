"""Cache of results on disk, each in a file named by its content key.

A file has a header (kind, schema, key) and a digest of its payload; invalid files are computed again and replaced.
Files are written atomically, and while a process computes a result, others that need it wait.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, Generic, TypeVar

from helixsim.errors import DataError
from helixsim.writing import write_text

try:
    import fcntl
except ImportError:  # no such locks: processes may compute the same result twice
    fcntl = None  # type: ignore[assignment]

Value = TypeVar("Value")

_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_NONBLOCK = getattr(os, "O_NONBLOCK", 0)
_NO_RIGHT = (errno.EACCES, errno.EPERM, errno.EROFS)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Codec(Generic[Value]):
    """How values become JSON and back; ``decode`` raises where it cannot."""

    encode: Callable[[Value], Any]
    decode: Callable[[Any], Value]


class Store(Generic[Value]):
    """A folder of results of one kind.

    Parameters
    ----------
    directory
        Made when the first result is kept.
    kind, schema
        What is kept and the number of its form, raised when a field changes its meaning.
    renew
        Compute anew and replace what is there.
    """

    def __init__(self, directory: Path, kind: str, schema: int, codec: Codec[Value], *, renew: bool = False) -> None:
        self.directory = directory
        self.kind = kind
        self.schema = schema
        self.codec = codec
        self.renew = renew

    def path(self, key: str) -> Path:
        """Return the file of a key."""
        return self.directory / f"{key}.json"

    def get(self, key: str) -> Value | None:
        """Return the result of a key, None if there is none that checks out."""
        if self.renew:
            return None
        try:
            with open_regular(self.path(key)) as file:
                document = json.load(file)
            head = {name: document[name] for name in ("kind", "schema", "key")}
            payload = document["payload"]
            if head != self._head(key) or document["sha256"] != digest_of(payload):
                return None
            return self.codec.decode(payload)
        except Exception:  # whatever is the matter with the file, the result is computed again
            return None

    def put(self, key: str, value: Value) -> Value:
        """Keep a result and return it as ``get`` will.

        Where the folder may not be written the result is not kept, which is logged; it is valid all the same.

        Raises
        ------
        DataError
            If the file cannot be written for another reason, such as a full disk.
        """
        payload = json.loads(json.dumps(self.codec.encode(value)))
        text = json.dumps({**self._head(key), "sha256": digest_of(payload), "payload": payload})
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            write_text(self.path(key), text + "\n")
        except OSError as error:
            if error.errno not in _NO_RIGHT:
                raise DataError(f"{error.filename or self.path(key)}: cannot be written: {error.strerror}") from error
            self._not_kept(str(error.strerror))
        return self.codec.decode(payload)

    def obtain(self, key: str, compute: Callable[[], Value]) -> Value:
        """Return the result of a key, computing and keeping it if there is none."""
        found = self.get(key)
        if found is not None:
            return found
        with self.exclusive(key):
            found = self.get(key)
            return self.put(key, compute()) if found is None else found

    @contextmanager
    def exclusive(self, key: str) -> Iterator[None]:
        """Exclude other processes from computing the result of a key.

        The lock is released if its holder dies. Without a lock (no rights, a file system without locks) the block runs
        anyway, and the same result may be computed twice.
        """
        lock = _Lock(self.directory / f"{key}.lock")
        lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _not_kept(self, reason: str) -> None:
        """Log, once for each kind of result, that it is not kept."""
        if (self.kind, reason) not in _told:
            _told.add((self.kind, reason))
            _log.warning("%s: cannot be written (%s): no %s is kept", self.directory, reason, self.kind)

    def _head(self, key: str) -> dict[str, Any]:
        return {"kind": self.kind, "schema": self.schema, "key": key}


@contextmanager
def open_regular(path: Path) -> Iterator[BufferedReader]:
    """Open a regular file that is no link for reading; ``OSError`` for anything else."""
    descriptor = os.open(path, os.O_RDONLY | _NOFOLLOW | _NONBLOCK)  # without blocking: a pipe in its place has no end
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    with os.fdopen(descriptor, "rb") as file:
        yield file


class _Lock:
    """A lock file that is there only while it is held."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Wait for the lock; without one if it cannot be had."""
        if fcntl is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            while self._descriptor is None:
                descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | _NOFOLLOW | _NONBLOCK, 0o666)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
                    if self._is_current(descriptor):
                        self._descriptor, descriptor = descriptor, -1
                finally:
                    if descriptor >= 0:
                        os.close(descriptor)
        except OSError:
            self._descriptor = None

    def release(self) -> None:
        """Remove the file, then let the next process in, which makes a new one."""
        if self._descriptor is not None:
            with suppress(OSError):
                self._path.unlink()
            os.close(self._descriptor)
            self._descriptor = None

    def _is_current(self, descriptor: int) -> bool:
        """Return whether the file is still the one of that name: its last holder has removed it otherwise."""
        try:
            return os.path.samestat(os.fstat(descriptor), self._path.lstat())
        except FileNotFoundError:
            return False


_told: set[tuple[str, str]] = set()


def digest_of(payload: Any) -> str:
    """Return the SHA-256 of JSON values."""
    return hashlib.sha256(json.dumps(payload, sort_keys=True).encode()).hexdigest()
