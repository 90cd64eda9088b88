"""What the pydantic models of all files share: a strict base, common types, and faults with their places.

A fault tells the position, the value that was got and what was probably meant.
"""

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
    """Return the validator of a quantity with unit, above zero, that gives its value in the base unit.

    ``zero``: nothing is allowed too. See ``units.parse`` for dimensions and their base units.
    """

    def check(value: Any) -> float:
        number = units.parse(value, dimension)
        if number == 0 and not zero:
            raise ValueError(f"must be above zero, got {value!r}")
        return number

    return PlainValidator(check)


class Section(BaseModel):
    """A mapping of a file: unknown keys, numbers written as text and non-finite numbers are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True, protected_namespaces=())

    @classmethod
    def keys(cls) -> list[str]:
        """Return the keys that the mapping may have."""
        return [info.alias or name for name, info in cls.model_fields.items()]


class Located(Protocol):
    """Plain data whose values and keys have places."""

    @property
    def data(self) -> Any:
        """The data."""
        ...

    def where(self, path: KeyPath) -> str:
        """Return the place of the value at ``path``."""
        ...

    def key_where(self, path: KeyPath) -> str:
        """Return the place of the key at ``path``."""
        ...


_NONE = Renames()

File = TypeVar("File", bound=BaseModel)


def read(path: Path, model: type[File], context: object = None, renames: Renames = _NONE) -> File:
    """Return the contents of a YAML file.

    Parameters
    ----------
    context
        What validators of the model get as ``info.context``.
    renames
        Former names of keys and values that are still read.

    Raises
    ------
    DataError
        If the file cannot be read, or does not fit the model: with every fault and its place.
    """
    return checked(load(path, renames), model, context)


def load(path: Path, renames: Renames = _NONE) -> yamlio.Document:
    """Return a YAML file that is not checked yet; ``DataError`` if it cannot be read."""
    try:
        return renames.document(yamlio.load(path))
    except ConfigError as error:
        raise DataError(str(error)) from error


def checked(document: yamlio.Document, model: type[File], context: object = None) -> File:
    """Return the contents of a document; ``DataError`` with every fault if it does not fit the model."""
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
}


def problems_of(error: ValidationError, source: Located, model: type[BaseModel], at: KeyPath = ()) -> list[Problem]:
    """Return one problem per fault, in the order pydantic found them.

    Parameters
    ----------
    model
        What was validated; it tells which keys are allowed.
    at
        Where in the source the validated values stand.
    """
    found = [(_true_path(details, source.data, at), details) for details in error.errors(include_url=False)]
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
            problems.append(Problem(source.where(path), dotted(path), _message(details)))
    return problems


def _true_path(details: ErrorDetails, data: Any, at: KeyPath) -> KeyPath:
    """Drop from pydantic's location what is no key of the file: the tags of unions."""
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
    """Whether an unknown key of the same mapping is close to the missing one; that problem then says it all."""
    siblings = [str(path[-1]) for path in unknown if path[:-1] == missing[:-1]]
    return bool(did_you_mean(str(missing[-1]), siblings))


def _message(details: ErrorDetails) -> str:
    got = details["input"]
    if details["type"] == "value_error":
        return str(details["ctx"]["error"])
    if details["type"] == "union_tag_invalid":
        return unknown_name("kind", details["ctx"]["tag"], re.findall(r"'([^']*)'", details["ctx"]["expected_tags"]))
    if details["type"] == "union_tag_not_found":
        return f"required key {details['ctx']['discriminator']} is missing"
    said = _WORDS.get(details["type"]) or re.sub(r"^(Input|String|List) should", "must", details["msg"])
    shown = f"{got!r}" if not isinstance(got, dict | list) else f"a {'mapping' if isinstance(got, dict) else 'list'}"
    hint = ""
    if details["type"] == "literal_error" and isinstance(got, str):
        hint = did_you_mean(got, re.findall(r"'([^']*)'", details["ctx"]["expected"]))
    return f"{said}, got {shown}{hint}"


def _keys(model: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    """Return the keys allowed in the mapping at pydantic's ``location`` below ``model``."""
    choices: list[type[BaseModel]] = []
    for part in location:
        found = (info for name, info in model.model_fields.items() if (info.alias or name) == part)
        field = next(found, None)
        if field is not None:
            choices = [*_sections(field.annotation), *(one for each in field.metadata for one in _sections(each))]
            model = choices[0] if choices else model
        else:  # the tag of a union, or a name of the user's own, as in slo_targets: its value is the section
            model = next((one for one in choices if _kind(one) == part), model)
    if issubclass(model, Section):
        return model.keys()
    return list(model.model_fields)  # of options


def _kind(model: type[BaseModel]) -> str | None:
    """Return the tag of a member of a union that is told apart by ``kind``."""
    field = model.model_fields.get("kind")
    tags = () if field is None else get_args(field.annotation)
    return tags[0] if tags else None


def _sections(annotation: Any) -> list[type[BaseModel]]:
    """Return the sections inside ``list[Section] | None`` and the like."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [one for inner in get_args(annotation) for one in _sections(inner)]
