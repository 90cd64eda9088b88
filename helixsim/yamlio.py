"""Strict YAML with positions.

Scalars follow the core schema of YAML 1.2: ``1e6`` is a number, and ``no``, ``on`` and ``12:30`` are text (PyYAML
follows YAML 1.1). Documents contain plain values only: mappings with text keys, lists, text, numbers, true/false and
null. Errors, with their positions, are duplicate keys, tags, anchors, aliases, merge keys (so that every value has one
position) and several documents in one file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from helixsim.errors import ConfigError, Problem

Key = str | int
KeyPath = tuple[Key, ...]
Position = tuple[int, int]
"""Line and column, both counted from 1."""

_MAX_DEPTH: Final = 100
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NUMBERS: Final[tuple[tuple[re.Pattern[str], Callable[[str], int | float]], ...]] = (
    (re.compile(r"[-+]?[0-9]+"), int),
    (re.compile(r"0o[0-7]+"), lambda text: int(text[2:], 8)),
    (re.compile(r"0x[0-9a-fA-F]+"), lambda text: int(text[2:], 16)),
    (re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"), float),
    (re.compile(r"[-+]?\.(?:inf|Inf|INF)"), lambda text: float(text.replace(".", ""))),
    (re.compile(r"\.(?:nan|NaN|NAN)"), lambda _text: float("nan")),
)
_WORDS: Final[dict[str, bool | None]] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


@dataclass(frozen=True)
class Document:
    """The contents of a YAML file with the positions of its values.

    Parameters
    ----------
    name
        Name of the file in messages.
    data
        Plain values: dict, list, str, int, float, bool or None.
    values, keys
        Position of each value, and of the key of each mapping entry, by path.
    """

    name: str
    data: Any
    values: Mapping[KeyPath, Position]
    keys: Mapping[KeyPath, Position]

    def where(self, path: KeyPath) -> str:
        """Return ``file:line:column`` of the value at ``path``, or of its closest existing parent."""
        return self._nearest(path, self.values)

    def key_where(self, path: KeyPath) -> str:
        """Return ``file:line:column`` of the key at ``path``, or of the closest existing value."""
        found = self.keys.get(path)
        return self.where(path) if found is None else f"{self.name}:{found[0]}:{found[1]}"

    def part(self, path: KeyPath) -> Document:
        """Return the value at ``path``, which must exist, as a document with the same positions."""
        data = self.data
        for key in path:
            data = data[key]

        def within(positions: Mapping[KeyPath, Position]) -> dict[KeyPath, Position]:
            return {at[len(path) :]: found for at, found in positions.items() if at[: len(path)] == path}

        return Document(self.name, data, within(self.values), within(self.keys))

    def _nearest(self, path: KeyPath, positions: Mapping[KeyPath, Position]) -> str:
        for length in range(len(path), -1, -1):
            found = positions.get(path[:length])
            if found is not None:
                return f"{self.name}:{found[0]}:{found[1]}"
        return self.name


def load(path: Path, problems: list[Problem] | None = None) -> Document:
    """Read a YAML file; ``problems`` as in ``loads``.

    Raises
    ------
    ConfigError
        If the file cannot be read, is not UTF-8 or is refused (see the module).
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError([Problem(str(path), "", f"cannot be read: {error.strerror or error}")]) from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        column = error.start - (raw.rfind(b"\n", 0, error.start) + 1) + 1
        message = f"byte 0x{raw[error.start]:02x} is not UTF-8"
        raise ConfigError([Problem(f"{path}:{line}:{column}", "", message)]) from error
    return loads(text, str(path), problems)


def loads(text: str, name: str, problems: list[Problem] | None = None) -> Document:
    """Read YAML text; ``name`` is the name of the file in messages.

    With ``problems``, faults that leave the rest readable (a duplicate key, an anchor) are added to it instead of being
    raised, so that they can be reported together with others.

    Raises
    ------
    ConfigError
        If the text is refused (see the module). Syntax errors are raised immediately, all other faults are collected.
    """
    for number, line in enumerate(text.split("\n"), 1):
        found = _UNREADABLE.search(line)
        if found is not None:
            message = f"character U+{ord(found.group()):04X} is not allowed; write it as an escape in double quotes"
            raise ConfigError([Problem(f"{name}:{number}:{found.start() + 1}", "", message)])
    builder = _Builder(name, yaml.parse(text, Loader=_LOADER))
    try:
        data = builder.document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        message = ", ".join(part for part in (error.context, error.problem) if part)
        raise ConfigError([Problem(where, "", f"unreadable YAML: {message}")]) from error
    except yaml.YAMLError as error:
        message = " ".join(str(error).split())
        raise ConfigError([Problem(name, "", f"unreadable YAML: {message}")]) from error
    if problems is not None:
        problems.extend(builder.problems)
    elif builder.problems:
        raise ConfigError(builder.problems)
    return Document(name, data, builder.values, builder.keys)


def scalar(text: str) -> str | int | float | bool | None:
    """Return the value of unquoted YAML text under the core schema of YAML 1.2.

    Raises
    ------
    ValueError
        If a number has too many digits.
    """
    if text in _WORDS:
        return _WORDS[text]
    for pattern, convert in _NUMBERS:
        if pattern.fullmatch(text):
            return convert(text)
    return text


_UNREADABLE = re.compile("[^\t\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters not allowed in YAML: control characters and surrogates."""


class _Builder:
    """Builds plain values from the events of the parser, and records their positions."""

    def __init__(self, name: str, events: Iterator[Any]) -> None:
        self.name = name
        self.events = events
        self.values: dict[KeyPath, Position] = {}
        self.keys: dict[KeyPath, Position] = {}
        self.problems: list[Problem] = []

    def document(self) -> Any:
        data: Any = None
        documents = 0
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    self._refuse(event, (), "a second document in one file is not allowed")
                    break
                data = self._value(next(self.events), ())
        return data

    def _value(self, event: Any, path: KeyPath) -> Any:
        self.values[path] = _position(event)
        if isinstance(event, yaml.AliasEvent):
            return self._refuse(event, path, f"aliases are not allowed (*{event.anchor}); write the value out")
        if event.anchor is not None:
            self._refuse(event, path, f"anchors are not allowed (&{event.anchor}); write the value out at each place")
        if event.tag is not None:
            self._refuse(event, path, f"tags are not allowed ({event.tag})")
        if len(path) > _MAX_DEPTH:
            raise ConfigError([Problem(self._where(event), "", f"nested more than {_MAX_DEPTH} levels deep")])
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(path)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(path)
        return self._scalar(event, path)

    def _mapping(self, path: KeyPath) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for event in self.events:
            if isinstance(event, yaml.MappingEndEvent):
                break
            key = self._key(event, path)
            entry = (*path, key)
            if key in data:
                line, column = self.keys[entry]
                self._refuse(event, entry, f"duplicate key, first at {self.name}:{line}:{column}")
                positions = dict(self.values)
                self._value(next(self.events), entry)
                self.values = positions
                continue
            self.keys[entry] = _position(event)
            data[key] = self._value(next(self.events), entry)
        return data

    def _key(self, event: Any, path: KeyPath) -> str:
        if not isinstance(event, yaml.ScalarEvent):
            raise ConfigError([Problem(self._where(event), dotted(path), "a key must be text")])
        key = str(event.value)
        if event.implicit[0] and (key == "<<" or not isinstance(self._scalar(event, path), str)):
            message = "merge keys are not allowed" if key == "<<" else f"a key must be text, got {key!r}; quote it"
            self._refuse(event, path, message)
        if event.anchor is not None or event.tag is not None:
            self._refuse(event, path, f"anchors and tags are not allowed on the key {key!r}")
        return key

    def _sequence(self, path: KeyPath) -> list[Any]:
        data: list[Any] = []
        for event in self.events:
            if isinstance(event, yaml.SequenceEndEvent):
                break
            data.append(self._value(event, (*path, len(data))))
        return data

    def _scalar(self, event: Any, path: KeyPath) -> Any:
        if not event.implicit[0]:
            return event.value
        try:
            return scalar(event.value)
        except ValueError:
            return self._refuse(event, path, f"a number of {len(event.value)} digits is too long")

    def _refuse(self, event: Any, path: KeyPath, message: str) -> None:
        self.problems.append(Problem(self._where(event), dotted(path), message))

    def _where(self, event: Any) -> str:
        line, column = _position(event)
        return f"{self.name}:{line}:{column}"


def _position(event: Any) -> Position:
    return event.start_mark.line + 1, event.start_mark.column + 1


def dotted(path: KeyPath) -> str:
    """Return ``systems.0.name`` for ``("systems", 0, "name")``."""
    return ".".join(str(part) for part in path)


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]  # yaml has no types
    """Dumper whose output ``loads`` can read: ambiguous text is quoted, and there are no anchors."""

    def ignore_aliases(self, _data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> Any:
    style = None if isinstance(scalar(text), str) else "'"
    if any(letter in text for letter in "\x85\u2028\u2029"):  # YAML would read them as line breaks
        style = '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def dump(data: Any) -> str:
    """Return ``data`` as YAML text, deterministically; ``loads`` is the inverse."""
    text: str = yaml.dump(data, Dumper=_Dumper, sort_keys=False, default_flow_style=None, allow_unicode=True, width=120)
    return text
