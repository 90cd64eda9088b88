"""The plain values of an experiment before they are checked, with their origins: file, cluster file or edit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from helixsim import yamlio
from helixsim.config.edit import Edit, plain
from helixsim.config.former import RENAMES
from helixsim.errors import ConfigError, Problem, shortened
from helixsim.yamlio import Document, Key, KeyPath, dotted

SHORTHANDS: Final = {
    "placement": "strategy",
    "routing": "policy",
    "batching": "policy",
    "lengths": "distribution",
    "engine": "name",
}
"""Keys whose value may be a name alone, with the key of the name in the mapping."""


@dataclass(frozen=True)
class Source:
    """An experiment as plain data with the origin of each value: its file, the cluster file, or an edit.

    Immutable: edits return another source, which shares unchanged parts.

    Parameters
    ----------
    path
        The file; for data built in Python, a name in the base folder of relative file names.
    data
        Plain values, not to be modified.
    documents
        (Path of the values, their document, base folder of file names in it); the first is the file itself.
    edited_at
        Path of each edited value -> (its origin, base folder of file names in it).
    problems
        Faults found while reading that leave the rest readable.
    """

    path: Path
    data: Any
    documents: tuple[tuple[KeyPath, Document, Path], ...]
    edited_at: Mapping[KeyPath, tuple[str, Path]] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()

    @classmethod
    def read(cls, path: Path) -> Source:
        """Return the contents of a file.

        Raises
        ------
        ConfigError
            If the file is unreadable or not a mapping.
        """
        problems: list[Problem] = []
        document = RENAMES.document(yamlio.load(path, problems))
        source = cls(path, document.data, (((), document, path.parent),), {}, tuple(problems))
        if not isinstance(document.data, dict):
            where = source.where(()) if document.data is not None else f"{path}:1:1"
            got = f"a {'list' if isinstance(document.data, list) else 'single value'}"
            got = "nothing" if document.data is None else got
            message = f"an experiment must be a mapping of keys to values, got {got}"
            raise ConfigError([*problems, Problem(where, "", message)])
        return source

    @classmethod
    def of(cls, data: Mapping[str, Any], path: Path) -> Source:
        """Return plain data as a source; messages give keys instead of lines.

        Raises
        ------
        ConfigError
            If the data are not plain.
        """
        try:
            document = RENAMES.document(Document(path.name, plain(data), {}, {}))
        except TypeError as error:
            raise ConfigError([Problem(path.name, "", str(error))]) from error
        return cls(path, document.data, (((), document, path.parent),))

    def edited(self, *edits: Edit) -> Source:
        """Return the source with edits applied in order; missing mappings on the path are created.

        Raises
        ------
        ConfigError
            If a path leads into a value that is not a mapping, or to a missing list entry.
        """
        source = self
        for edit in edits:
            if edit.path[0] == "cluster" and len(edit.path) > 1:
                source = source.completed()
            source = source._with(edit)
        return source

    def extended(self, path: KeyPath, values: Sequence[Any], origin: str, directory: Path) -> Source:
        """Return the source with entries appended to the list at ``path``."""
        source, old = self, self.data
        for key in path:
            old = old[key]
        for number, value in enumerate(values, len(old)):
            grown = Edit.of((*path, number), value, origin, directory)
            source = source._with(grown, extends=True)
        return source

    def without(self, key: str) -> Source:
        """Return the source without a top-level key."""
        return replace(self, data={name: value for name, value in self.data.items() if name != key})

    def composed(self, root: KeyPath, keys: Mapping[str, KeyPath]) -> Source:
        """Return a mapping of values at some paths, with their origins, as a source.

        Parameters
        ----------
        root
            Path of the mapping that errors about missing keys refer to.
        keys
            Key of the new mapping -> path of its value in this source.
        """
        data: dict[str, Any] = {}
        _, document, folder = self._document(root)
        whole = document.part(root) if _holds(document.data, root) else document
        documents: list[tuple[KeyPath, Document, Path]] = [((), whole, folder)]
        edited_at: dict[KeyPath, tuple[str, Path]] = {}
        for key, path in keys.items():
            value = self.data
            for part in path:
                value = value[part]
            data[key] = value
            owners = [entry for entry in self.documents if path[: len(entry[0])] == entry[0]]
            prefix, document, folder = owners[-1]
            if _holds(document.data, path[len(prefix) :]):
                documents.append(((key,), document.part(path[len(prefix) :]), folder))
            for at, given in self.edited_at.items():
                if at[: len(path)] == path:
                    edited_at[key, *at[len(path) :]] = given
                elif path[: len(at)] == at:
                    edited_at.setdefault((key,), given)
        return Source(self.path, data, tuple(documents), edited_at, self.problems)

    def completed(self) -> Source:
        """Return the source with the contents of the cluster file, if the cluster is given as a file.

        Raises
        ------
        ConfigError
            If the file is missing or unreadable.
        """
        name = self.data.get("cluster")
        if not isinstance(name, str):
            return self
        path = self.file(("cluster",), name)
        if not is_file(path):
            missing = self.problem(("cluster",), f"no such file: {shortened(str(path))}")
            raise ConfigError([*self.problems, missing])
        problems = list(self.problems)
        document = yamlio.load(path, problems)
        return replace(
            self,
            data={**self.data, "cluster": document.data},
            documents=(*self.documents, (("cluster",), document, path.parent)),
            edited_at={at: given for at, given in self.edited_at.items() if at != ("cluster",)},
            problems=tuple(problems),
        )

    def where(self, path: KeyPath) -> str:
        """Return ``file:line:column`` of the value at ``path``, or the origin of its edit."""
        return self._locate(path, key=False)

    def key_where(self, path: KeyPath) -> str:
        """Return ``file:line:column`` of the key at ``path``, or the origin of its edit."""
        return self._locate(path, key=True)

    def problem(self, path: KeyPath, message: str) -> Problem:
        """Return a fault of the value at ``path``."""
        return Problem(self.where(path), dotted(path), message)

    def file(self, path: KeyPath, name: str) -> Path:
        """Return the path of the file ``name`` given at ``path``.

        Names are relative to the file they are in, those of edits to the folder of the edit (``--set``: the working
        directory).
        """
        given = self._edit_of(path)
        return (self._document(path)[2] if given is None else given[1]) / name

    def _with(self, edit: Edit, *, extends: bool = False) -> Source:
        """Return the source with one edit applied; only containers on the path are copied."""
        path: KeyPath = ()
        passed: list[Any] = []
        target: Any = self.data
        for part in edit.path:
            step = _step(target, part, path, edit, extends=extends)
            passed.append(target)
            path = (*path, step)
            if isinstance(target, dict):
                target = target.get(part, {})
                if isinstance(target, str) and part in SHORTHANDS and len(path) < len(edit.path):
                    target = {SHORTHANDS[part]: target}
            else:
                target = target[step] if step < len(target) else None  # type: ignore[operator]  # a list: a number
        value = edit.value
        for container, step in zip(reversed(passed), reversed(path), strict=True):
            if isinstance(container, dict):
                value = {**container, step: value}
            else:
                value = [*container[:step], value, *container[step + 1 :]]  # type: ignore[operator]
        edited_at = {at: given for at, given in self.edited_at.items() if at[: len(path)] != path}
        edited_at[path] = (edit.where, edit.directory)
        return replace(self, data=value, edited_at=edited_at)

    def _locate(self, path: KeyPath, *, key: bool) -> str:
        given = self._edit_of(path)
        if given is not None:
            return given[0]
        prefix, document, _ = self._document(path)
        rest = path[len(prefix) :]
        if not _holds(document.data, rest):
            made = next((given for at, given in self.edited_at.items() if at[: len(path)] == path), None)
            if made is not None:
                return made[0]
        return document.key_where(rest) if key else document.where(rest)

    def _document(self, path: KeyPath) -> tuple[KeyPath, Document, Path]:
        owners = [entry for entry in self.documents if path[: len(entry[0])] == entry[0]]
        return owners[-1] if self._edit_of(path) is None else owners[0]

    def _edit_of(self, path: KeyPath) -> tuple[str, Path] | None:
        """Return origin and base folder of the edit of the value at ``path``, None if it was not edited."""
        lengths = range(len(path), 0, -1)
        return next((self.edited_at[path[:n]] for n in lengths if path[:n] in self.edited_at), None)


def _holds(data: Any, path: KeyPath) -> bool:
    """Whether there is a value at ``path``."""
    for part in path:
        known = data if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ()
        if part not in known:
            return False
        data = data[part]
    return True


def _step(target: Any, part: str, path: KeyPath, edit: Edit, *, extends: bool) -> Key:
    """Return the key or index of an entry of ``target``, the value at ``path``."""
    if isinstance(target, dict):
        return part
    if isinstance(target, list):
        most = len(target) - 1 + extends
        if part.isascii() and part.isdecimal() and len(part) < 10 and int(part) <= most:
            return int(part)
        allowed = f"0 to {len(target) - 1}" if target else "none, it is empty"
        message = f"no entry {shortened(part)!r} in the list {dotted(path)} (entries: {allowed})"
    else:
        message = f"{dotted(path)} is {target!r} and has no key {part!r}"
    raise ConfigError([Problem(edit.where, "" if edit.key in edit.where else edit.key, message)])


def is_file(path: Path) -> bool:
    """Whether the path is a regular file; False for invalid names."""
    return _is(path, Path.is_file)


def is_folder(path: Path) -> bool:
    """Whether the path is a folder; False for invalid names."""
    return _is(path, Path.is_dir)


def _is(path: Path, kind: Callable[[Path], bool]) -> bool:
    try:
        return kind(path)
    except (OSError, ValueError):  # the name is too long or contains NUL
        return False
