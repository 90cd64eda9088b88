"""Field types of the schema: quantities with units, and choices (``name`` or ``{key: name, …options}``)."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Discriminator, Field, PlainValidator, Tag, WithJsonSchema, model_validator

from helixsim import units
from helixsim.validation import Section

_EXAMPLES = {
    "bandwidth": ["8 Gbit/s", "100 Mbit/s"],
    "size": ["64 GiB", "2 TiB"],
    "time": ["5 s", "50 ms"],
    "rate": ["2.5 /s", "90 /min", 2.5],
    "price": ["1.10 $/h"],
}


def or_text(schema: dict[str, Any]) -> None:
    """Allow text beside the mapping in a JSON Schema."""
    mapping = {key: schema.pop(key) for key in list(schema)}
    schema["anyOf"] = [{"type": "string"}, mapping]


class FileSection(Section):
    """A section that may be given as the path of a YAML file."""

    model_config = ConfigDict(json_schema_extra=or_text)


class Choice(Section):
    """A name, or a mapping of the name under ``key`` and options.

    The options are checked by ``choices`` against the ``Options`` class of the strategy, policy or distribution.
    """

    model_config = ConfigDict(extra="allow", json_schema_extra=or_text)
    key: ClassVar[str]

    @classmethod
    def keys(cls) -> list[str]:
        """See ``Section.keys``; options are checked by ``choices``."""
        return [cls.key]

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: object) -> object:
        return {cls.key: value} if isinstance(value, str) else value


def _quantity(dimension: str, *, positive: bool) -> tuple[PlainValidator, WithJsonSchema]:
    """Return a validator that keeps the text as written, so that it can be dumped and loaded again."""

    def check(value: Any) -> str | float:
        if units.parse(value, dimension) == 0 and positive:
            raise ValueError(f"must be above zero, got {value!r}")
        return value  # type: ignore[no-any-return]  # text or number, or parse has raised

    types = ["string", "number"] if dimension == "rate" else "string"
    schema = {"type": types, "format": dimension, "examples": _EXAMPLES[dimension]}
    return PlainValidator(check), WithJsonSchema(schema)


def _share_or_auto(value: Any) -> float | str:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if value != "auto" and not (is_number and 1e-6 <= value <= 1):
        raise ValueError(f"must be a share from 1e-06 to 1, or auto, got {value!r}")
    return value if value == "auto" else float(value)


Bandwidth = Annotated[str, *_quantity("bandwidth", positive=True)]
Latency = Annotated[str, *_quantity("time", positive=False)]
Duration = Annotated[str, *_quantity("time", positive=True)]
Size = Annotated[str, *_quantity("size", positive=False)]
Rate = Annotated[str | int | float, *_quantity("rate", positive=True)]
Price = Annotated[str, *_quantity("price", positive=False)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$", max_length=100)]
FewCount = Annotated[int, Field(ge=1, le=10**6)]
Share = Annotated[float, Field(ge=1e-6, le=1)]
ShareOrAuto = Annotated[
    float | Literal["auto"],
    PlainValidator(_share_or_auto),
    WithJsonSchema({"anyOf": [{"type": "number", "minimum": 1e-6, "maximum": 1}, {"const": "auto"}]}),
]

Factor = Annotated[float, Field(ge=1e-9, le=1e9)]
Tokens = Annotated[float, Field(ge=1, le=1e9)]
Seed = Annotated[int, Field(ge=0, lt=2**128)]


def text_or_tag(value: object) -> str:
    """Return the tag of a value of ``text | other``, so that errors concern one alternative only."""
    return "text" if isinstance(value, str) else "other"


TextOr = Discriminator(text_or_tag)
Text = Annotated[str, Tag("text")]
