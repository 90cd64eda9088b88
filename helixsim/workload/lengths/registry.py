"""The length distributions by name."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any, get_args, get_type_hints

from helixsim.errors import ConfigError, Problem, did_you_mean, unknown_name
from helixsim.workload.lengths.base import LengthDistribution
from helixsim.workload.lengths.parametric import Fixed, Lognormal, Uniform
from helixsim.workload.lengths.recorded import AzureCode, AzureConversation, Fitted, Trace
from helixsim.workload.spec import LengthsSpec

DISTRIBUTIONS: dict[str, type[LengthDistribution]] = {
    "azure-conversation": AzureConversation,
    "azure-code": AzureCode,
    "fixed": Fixed,
    "uniform": Uniform,
    "lognormal": Lognormal,
    "trace": Trace,
    "fitted": Fitted,
}


_NAMES = {int: "a whole number", float: "a number", str: "text"}


def names() -> tuple[str, ...]:
    """Return the names of the distributions."""
    return tuple(DISTRIBUTIONS)


def get(name: str) -> type[LengthDistribution]:
    """Return the class of a distribution; ``ConfigError`` for an unknown name."""
    if name not in DISTRIBUTIONS:
        raise ConfigError(unknown_name("length distribution", name, DISTRIBUTIONS))
    return DISTRIBUTIONS[name]


def reads_file(spec: LengthsSpec) -> bool:
    """Return whether a distribution is that of a file, which may change."""
    return any(field.name == "path" for field in fields(get(spec.distribution).Options))


def build(spec: LengthsSpec) -> LengthDistribution:
    """Return the distribution of a specification.

    Raises
    ------
    ConfigError
        If a name, an option or a value is not allowed.
    """
    distribution = get(spec.distribution)
    kinds = get_type_hints(distribution.Options)
    options = dict(spec.options)
    problems = [
        *(f"unknown option {key!r}{did_you_mean(key, kinds)}" for key in options if key not in kinds),
        *(
            f"option {field.name!r} is missing"
            for field in fields(distribution.Options)
            if field.default is MISSING and field.name not in options
        ),
        *(
            f"option {key!r}: got {value!r}, expected {_names_of(kinds[key])}"
            for key, value in options.items()
            if key in kinds and not _is_of(kinds[key], value)
        ),
    ]
    try:
        if not problems:
            return distribution(distribution.Options(**options))
    except ValueError as error:
        problems.append(str(error))
    allowed = f" (options: {', '.join(kinds) or 'none'})"
    raise ConfigError([Problem("", f"lengths.{spec.distribution}", problem + allowed) for problem in problems])


def _names_of(annotation: Any) -> str:
    return " or ".join(_NAMES[kind] for kind in get_args(annotation) or (annotation,) if kind in _NAMES)


def _is_of(annotation: Any, value: float | str) -> bool:
    """Whether a value has the type of an annotation such as ``int`` or ``str | None``; an int is a float."""
    allowed = get_args(annotation) or (annotation,)
    return type(value) in allowed or (isinstance(value, int) and float in allowed)
