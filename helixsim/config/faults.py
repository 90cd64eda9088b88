"""Turns what pydantic finds into problems with a position, the value that was got and what was probably meant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from helixsim.config.fields import Choice
from helixsim.config.source import KeyPath, Source, dotted
from helixsim.errors import Problem, did_you_mean

_WORDS = {
    "model_type": "must be a mapping",
    "list_type": "must be a list",
    "string_type": "must be text",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
}


def problems_of(error: ValidationError, source: Source, model: type[BaseModel], at: KeyPath = ()) -> list[Problem]:
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
            allowed = _keys(model, path[len(at) : -1])
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
    said = _WORDS.get(details["type"]) or details["msg"].replace("Input should", "must").replace(
        "String should", "must"
    )
    shown = f"{got!r}" if not isinstance(got, dict | list) else f"a {'mapping' if isinstance(got, dict) else 'list'}"
    return f"{said}, got {shown}"


def _keys(model: type[BaseModel], path: KeyPath) -> list[str]:
    """Return the keys allowed in the mapping at ``path`` below ``model``."""
    for part in path:
        if isinstance(part, str):
            found = (info for name, info in model.model_fields.items() if (info.alias or name) == part)
            field = next(found, None)
            if field is None:  # a name of the user's own, as in slo_classes: its value is the section
                continue
            inner = _section(field.annotation) or next(filter(None, map(_section, field.metadata)), None)
            model = inner or model
    if issubclass(model, Choice):
        return [model.key]
    return [info.alias or name for name, info in model.model_fields.items()]


def _section(annotation: Any) -> type[BaseModel] | None:
    """Return the section inside ``list[Section] | None`` and the like."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, (_section(inner) for inner in get_args(annotation))), None)
