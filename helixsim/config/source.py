"""The plain values of an experiment before they are checked, and where each came from: file, cluster file, --set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from helixsim import yamlio
from helixsim.errors import ConfigError, Problem, shortened
from helixsim.yamlio import Document, Key

KeyPath = tuple[Key, ...]

SHORTHANDS: Final = {"placement": "strategy", "routing": "policy", "batching": "policy", "lengths": "distribution"}
"""Keys whose value may be a mere name, with the key that the name stands for."""


class Source:
    """What an experiment file says, with ``--set`` applied and the cluster file read in.

    Attributes
    ----------
    data
        Plain values; a private copy that may be changed.
    files
        Every file read, in order.
    problems
        Faults found while reading that leave the rest readable.
    """

    def __init__(self, path: Path, overrides: Sequence[str]) -> None:
        self.path = path
        self.problems: list[Problem] = []
        self.files: list[Path] = []
        self._documents: list[tuple[KeyPath, Document, Path]] = []
        self._overrides: dict[KeyPath, tuple[str, Path]] = {}
        self.data: Any = self._read((), path)
        if not isinstance(self.data, dict):
            where = self.where(()) if self.data is not None else f"{path}:1:1"
            got = "nothing" if self.data is None else f"a {'list' if isinstance(self.data, list) else 'single value'}"
            said = f"an experiment must be a mapping of keys to values, got {got}"
            self.problems.append(Problem(where, "", said))
            raise ConfigError(self.problems)
        for text in overrides:
            self._override(text)
        self._read_cluster_file()

    def where(self, path: KeyPath) -> str:
        """Return ``file:line:column`` of the value at ``path``, or the ``--set`` or overlay it came from."""
        return self._locate(path, key=False)

    def key_where(self, path: KeyPath) -> str:
        """Return ``file:line:column`` of the key at ``path``, or the ``--set`` or overlay it came from."""
        return self._locate(path, key=True)

    def problem(self, path: KeyPath, message: str) -> Problem:
        """Return a fault of the value at ``path``."""
        return Problem(self.where(path), dotted(path), message)

    def file(self, path: KeyPath, name: str) -> Path:
        """Return the file called ``name`` at ``path``.

        Relative names count from the file they stand in, those given by ``--set`` from the working directory.
        """
        given = self._override_of(path)
        return (self._document(path)[2] if given is None else given[1]) / name

    def change(self, key: str, value: Any, said: str, directory: Path = Path()) -> None:
        """Give the value at a dotted ``key`` anew; missing mappings on the way are made, list entries must exist.

        Parameters
        ----------
        said
            Where messages say it came from.
        directory
            What relative file names in it count from.

        Raises
        ------
        ConfigError
            If the key leads nowhere.
        """
        parts = key.split(".")
        if not all(parts):
            raise ConfigError([Problem(said, "", f"expected a key such as workload.arrivals.rate, got {key!r}")])
        if parts[0] == "cluster" and len(parts) > 1:
            self._read_cluster_file()
        path: KeyPath = ()
        target: Any = self.data
        for depth, part in enumerate(parts):
            step = self._step(target, part, path, said)
            path = (*path, step)
            if depth == len(parts) - 1:
                target[step] = value
                break
            if isinstance(target, dict):
                inner = target.setdefault(step, {})
                if isinstance(inner, str) and step in SHORTHANDS:
                    target[step] = {SHORTHANDS[str(step)]: inner}
            target = target[step]
        self._overrides = {old: given for old, given in self._overrides.items() if old[: len(path)] != path}
        self._overrides[path] = (said, directory)

    def _locate(self, path: KeyPath, *, key: bool) -> str:
        for length in range(len(path), 0, -1):
            given = self._overrides.get(path[:length])
            if given is not None:
                return given[0]
        prefix, document, _ = self._document(path)
        rest = path[len(prefix) :]
        if rest not in document.values:
            made = next((given for at, given in self._overrides.items() if at[: len(path)] == path), None)
            if made is not None:
                return made[0]
        return document.key_where(rest) if key else document.where(rest)

    def _document(self, path: KeyPath) -> tuple[KeyPath, Document, Path]:
        owners = [entry for entry in self._documents if path[: len(entry[0])] == entry[0]]
        return owners[-1] if self._override_of(path) is None else owners[0]

    def _override_of(self, path: KeyPath) -> tuple[str, Path] | None:
        """Return where the value at ``path`` came from and what its files count from, None if from its file."""
        lengths = range(len(path), 0, -1)
        return next((self._overrides[path[:n]] for n in lengths if path[:n] in self._overrides), None)

    def _read(self, prefix: KeyPath, path: Path) -> Any:
        document = yamlio.load(path, self.problems)
        self.files.append(path)
        self._documents.append((prefix, document, path.parent))
        return document.data

    def _read_cluster_file(self) -> None:
        name = self.data.get("cluster")
        if not isinstance(name, str):
            return
        path = self.file(("cluster",), name)
        if not is_file(path):
            self.problems.append(self.problem(("cluster",), f"no such file: {shortened(str(path))}"))
            raise ConfigError(self.problems)
        self._overrides.pop(("cluster",), None)
        self.data["cluster"] = self._read(("cluster",), path)

    def _override(self, text: str) -> None:
        """Apply one ``key.path=value``."""
        key, equals, value = text.partition("=")
        if not equals or not all(key.split(".")):
            raise ConfigError([Problem(f"--set {text}", "", "expected key.path=value")])
        self.change(key, yamlio.loads(value, f"--set {text}").data, f"--set {text}")

    def _step(self, target: Any, part: str, path: KeyPath, said: str) -> Key:
        if isinstance(target, dict):
            return part
        if isinstance(target, list):
            if part.isascii() and part.isdecimal() and len(part) < 10 and int(part) < len(target):
                return int(part)
            allowed = f"0 to {len(target) - 1}" if target else "none, it is empty"
            message = f"no entry {shortened(part)!r} in the list {dotted(path)} (entries: {allowed})"
        else:
            message = f"{dotted(path)} is {target!r} and has no key {part!r}"
        raise ConfigError([Problem(said, "", message)])


def is_file(path: Path) -> bool:
    """Whether there is a regular file of this name; False where no file can be called so."""
    return _is(path, Path.is_file)


def is_folder(path: Path) -> bool:
    """Whether there is a folder of this name."""
    return _is(path, Path.is_dir)


def _is(path: Path, kind: Callable[[Path], bool]) -> bool:
    try:
        return kind(path)
    except (OSError, ValueError):  # the name is too long, or holds a NUL
        return False


def dotted(path: KeyPath) -> str:
    """Return ``systems.0.name`` for ``("systems", 0, "name")``."""
    return ".".join(str(part) for part in path)
