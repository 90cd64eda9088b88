"""Common parts of the pydantic models of all file formats: base class, types, and messages with positions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError
from pydantic_core import ErrorDetails

from helixsim import units, yamlio
from helixsim.errors import ConfigError, DataError, Problem, did_you_mean, unknown_name
from helixsim.renames import Renames
from helixsim.yamlio import KeyPath, dotted

Words = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1, le=10**9)]
Number = Annotated[float, Field(ge=-1e30, le=1e30)]
NotNegative = Annotated[float, Field(ge=0, le=1e30)]
Numbers = Annotated[list[NotNegative], Field(min_length=1)]


def base_unit(dimension: str, *, zero: bool = False) -> PlainValidator:
    """Return a validator of a positive quantity with unit, which returns the value in the base unit.

    ``zero``: zero is allowed. See ``units.parse`` for dimensions and base units.
    """

    def check(value: Any) -> float:
        number = units.parse(value, dimension)
        if number == 0 and not zero:
            raise ValueError(f"must be above zero, got {value!r}")
        return number

    return PlainValidator(check)


class Section(BaseModel):
    """A mapping in a file; unknown keys, numbers as text and non-finite numbers are errors."""

    model_config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, frozen=True, protected_namespaces=(),
        defer_build=True,  # most commands validate few of the sections
    )  # fmt: skip

    @classmethod
    def keys(cls) -> list[str]:
        """Return the allowed keys."""
        return [info.alias or name for name, info in cls.model_fields.items()]


class Located(Protocol):
    """Plain data with positions of values and keys."""

    @property
    def data(self) -> Any:
        """The data."""
        ...

    def where(self, path: KeyPath) -> str:
        """Return the position of the value at ``path``."""
        ...

    def key_where(self, path: KeyPath) -> str:
        """Return the position of the key at ``path``."""
        ...


_NONE = Renames()

File = TypeVar("File", bound=BaseModel)


def read(path: Path, model: type[File], context: object = None, renames: Renames = _NONE) -> File:
    """Return the contents of a YAML file.

    Parameters
    ----------
    context
        Context of the validators of the model (``info.context``).
    renames
        Former names of keys and values.

    Raises
    ------
    DataError
        If the file cannot be read or is invalid, with all faults and their positions.
    """
    return checked(load(path, renames), model, context)


def load(path: Path, renames: Renames = _NONE) -> yamlio.Document:
    """Return the document of a YAML file, unchecked; ``DataError`` if it cannot be read."""
    try:
        return renames.document(yamlio.load(path))
    except ConfigError as error:
        raise DataError(str(error)) from error


def checked(document: yamlio.Document, model: type[File], context: object = None) -> File:
    """Return the contents of a document; ``DataError`` with all faults if it is invalid."""
    try:
        return model.model_validate(document.data, context=context)
    except ValidationError as error:
        raise DataError(str(ConfigError(problems_of(error, document, model)))) from error


_WORDS = {
    "model_type": "must be a mapping",
    "list_type": "must be a list",
    "string_type": "must be text",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "dict_type": "must be a mapping",
}


_UNFIT = ("model_type", "list_type", "string_type", "dict_type")


def problems_of(error: ValidationError, source: Located, model: type[BaseModel], at: KeyPath = ()) -> list[Problem]:
    """Return one problem per fault, in the order of pydantic.

    Parameters
    ----------
    model
        The model, which defines the allowed keys.
    at
        Path of the validated values in the source.
    """
    found = _without_branches(
        [(_true_path(details, source.data, at), details) for details in error.errors(include_url=False)]
    )
    unknown = [path for path, details in found if details["type"] == "extra_forbidden"]
    problems = []
    for path, details in found:
        kind = details["type"]
        if kind == "extra_forbidden":
            allowed = _keys(model, details["loc"][:-1])
            known = ", ".join(allowed) or "none"
            message = f"unknown key {path[-1]!r}{did_you_mean(str(path[-1]), allowed)} (allowed: {known})"
            problems.append(Problem(source.key_where(path), dotted(path), message))
        elif kind == "missing":
            if not _is_misspelt(path, unknown):
                problems.append(Problem(source.where(path), dotted(path), "required key is missing"))
        else:
            kinds = [other["type"] for at_same, other in found if at_same == path and other["type"] in _UNFIT]
            if kind not in kinds:
                problems.append(Problem(source.where(path), dotted(path), _message(details)))
            elif kind == kinds[0]:
                problems.append(Problem(source.where(path), dotted(path), _message(details, kinds)))
    return problems


def _without_branches(found: list[tuple[KeyPath, ErrorDetails]]) -> list[tuple[KeyPath, ErrorDetails]]:
    """Return the faults without those of union members that do not fit at all, if one fits but for its entries."""
    inner = {path[:depth] for path, _ in found for depth in range(len(path))}
    return [(path, details) for path, details in found if details["type"] not in _UNFIT or path not in inner]


def _true_path(details: ErrorDetails, data: Any, at: KeyPath) -> KeyPath:
    """Return the location of pydantic without the tags of unions, which are not keys of the file."""
    path: KeyPath = at
    for part in at:
        data = data[part]
    location = details["loc"]
    for depth, part in enumerate(location):
        if isinstance(data, Mapping):
            is_missing_key = depth == len(location) - 1 and details["type"] == "missing"
            if part not in data and not is_missing_key:
                continue
            data = data.get(part)
        elif isinstance(data, Sequence) and not isinstance(data, str) and isinstance(part, int):
            data = data[part]
        else:
            continue
        path = (*path, part)
    return path


def _is_misspelt(missing: KeyPath, unknown: Iterable[KeyPath]) -> bool:
    """Whether an unknown key of the same mapping resembles the missing one, so that one message suffices."""
    siblings = [str(path[-1]) for path in unknown if path[:-1] == missing[:-1]]
    return bool(did_you_mean(str(missing[-1]), siblings))


def _message(details: ErrorDetails, kinds: Sequence[str] = ()) -> str:
    """Return a fault in words; ``kinds``: those of all members of a union that do not fit."""
    got = details["input"]
    if details["type"] == "value_error":
        return str(details["ctx"]["error"])
    if details["type"] == "union_tag_invalid":
        return unknown_name("kind", details["ctx"]["tag"], re.findall(r"'([^']*)'", details["ctx"]["expected_tags"]))
    if details["type"] == "union_tag_not_found":
        return f"required key {details['ctx']['discriminator']} is missing"
    if details["type"] == "too_short" and not got:
        return "must not be empty"
    words = [_WORDS[kind].removeprefix("must be ") for kind in kinds or (details["type"],) if kind in _WORDS]
    own = re.sub(r"^(Input|String|List) should", "must", details["msg"])
    expected = f"must be {' or '.join(words)}" if words else own
    shown = f"{got!r}" if not isinstance(got, dict | list) else f"a {'mapping' if isinstance(got, dict) else 'list'}"
    hint = ""
    if details["type"] == "literal_error" and isinstance(got, str):
        hint = did_you_mean(got, re.findall(r"'([^']*)'", details["ctx"]["expected"]))
    return f"{expected}, got {shown}{hint}"


def _keys(model: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    """Return the allowed keys of the mapping at ``location`` (of pydantic) below ``model``."""
    choices: list[type[BaseModel]] = []
    for part in location:
        found = (info for name, info in model.model_fields.items() if (info.alias or name) == part)
        field = next(found, None)
        if field is not None:
            choices = [*_sections(field.annotation), *(one for each in field.metadata for one in _sections(each))]
            model = choices[0] if choices else model
        else:  # the tag of a union, or a user-defined name as in slo_targets, whose value is the section
            model = next((one for one in choices if _kind(one) == part), model)
    if issubclass(model, Section):
        return model.keys()
    return list(model.model_fields)  # of options


def _kind(model: type[BaseModel]) -> str | None:
    """Return the tag of a member of a union with the discriminator ``kind``."""
    field = model.model_fields.get("kind")
    tags = () if field is None else get_args(field.annotation)
    return tags[0] if tags else None


def _sections(annotation: Any) -> list[type[BaseModel]]:
    """Return the sections inside ``list[Section] | None`` and the like."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [one for inner in get_args(annotation) for one in _sections(inner)]
