"""References of the file formats, derived from the schema: JSON Schema and Markdown."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from helixsim.config.choices import Registries, Registry, options_model
from helixsim.config.fields import Choice
from helixsim.config.load_schema import LengthsChoice
from helixsim.config.schema import BatchingChoice, ExperimentSection, PlacementChoice, RoutingChoice
from helixsim.workload.lengths import registry as lengths

JsonSchema = dict[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class OptionEntry:
    """One option of a strategy, policy or distribution; ``default`` as in YAML, None if the option is required."""

    name: str
    type: str
    default: str | None
    meaning: str


@dataclasses.dataclass(frozen=True, slots=True)
class ChoiceEntry:
    """One strategy, policy or distribution."""

    name: str
    summary: str
    about_options: str
    options: tuple[OptionEntry, ...]


def schema(registries: Registries) -> JsonSchema:
    """Return the JSON Schema of exp.yaml, with the options of all strategies and policies."""
    whole = ExperimentSection.model_json_schema(by_alias=True)
    for choice, registry in _choices(registries):
        whole["$defs"][choice.__name__]["anyOf"] = [
            {"type": "string"},
            *(_choice_schema(choice.key, name, registry) for name in registry.names()),
            {"type": "object", "properties": {choice.key: {"pattern": ".:."}}, "required": [choice.key]},
        ]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **whole}


def section_schema(section: type[BaseModel]) -> JsonSchema:
    """Return the JSON Schema of another file format."""
    whole = section.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **whole}


def section_markdown(section: type[BaseModel]) -> str:
    """Return the reference of another file format in Markdown."""
    whole = section.model_json_schema(by_alias=True)
    definitions = whole.get("$defs", {})
    lines = [f"# {whole['title']}", "", str(whole["description"]), "", *_table(whole, definitions)]
    for path, name in _sections(whole, definitions, ""):
        inner = definitions[name]
        lines += [f"## {path}", "", str(inner["description"]).split("\n\n")[0].replace("\n", " "), ""]
        lines += _table(inner, definitions)
    return "\n".join(lines)


def entries(registry: Registry) -> tuple[ChoiceEntry, ...]:
    """Return the entries of a registry with their options."""
    found = []
    for name in registry.names():
        registered = registry.get(name)
        found.append(
            ChoiceEntry(name, registered.summary, _documented(registered.Options)[0], _options(registered.Options))
        )
    return tuple(found)


def markdown(registries: Registries) -> str:
    """Return the reference of exp.yaml in Markdown."""
    whole = ExperimentSection.model_json_schema(by_alias=True)
    lines = ["# exp.yaml", "", str(whole["description"]), ""]
    lines += [
        "Quantities are text with a unit (`8 Gbit/s`, `40 GiB`, `1 ms`); a rate without unit is per second.",
        "Paths are relative to the file they are in. Unknown and duplicate keys are errors.",
        "",
    ]
    lines += _table(whole, whole["$defs"])
    for path, name in _sections(whole, whole["$defs"], ""):
        section = whole["$defs"][name]
        section = next((form for form in section.get("anyOf", ()) if "properties" in form), section)
        lines += [f"## {path}", "", str(section["description"]).split("\n\n")[0].replace("\n", " "), ""]
        lines += _table(section, whole["$defs"])
    for choice, registry in _choices(registries):
        lines += [f"## Options of {_PLURALS[choice]}", ""]
        for entry in entries(registry):
            lines += [f"### {entry.name}", "", f"{entry.summary[0].upper()}{entry.summary[1:]}.", ""]
            lines += [entry.about_options, ""] if entry.about_options else []
            if entry.options:
                lines += _HEAD
                lines += [_row(option.name, option.type, option.default, option.meaning) for option in entry.options]
                lines.append("")
    return "\n".join(lines)


_PLURALS: Mapping[type[Choice], str] = {
    PlacementChoice: "placement strategies",
    RoutingChoice: "routing policies",
    BatchingChoice: "batching policies",
    LengthsChoice: "length distributions",
}


def _choices(registries: Registries) -> tuple[tuple[type[Choice], Registry], ...]:
    return (
        (PlacementChoice, registries.placement),
        (RoutingChoice, registries.routing),
        (BatchingChoice, registries.batching),
        (LengthsChoice, lengths),
    )


def _choice_schema(key: str, name: str, registry: Registry) -> JsonSchema:
    options = options_model(registry.get(name).Options).model_json_schema()
    return {
        "type": "object",
        "properties": {key: {"const": name}, **options.get("properties", {})},
        "required": [key, *options.get("required", ())],
        "additionalProperties": False,
    }


def _options(options: type[Any]) -> tuple[OptionEntry, ...]:
    model = options_model(options).model_json_schema()
    required = model.get("required", ())
    meanings = _documented(options)[1]
    return tuple(
        OptionEntry(
            name, _type(form, {}), None if name in required else _yaml(form.get("default")), meanings.get(name, "")
        )
        for name, form in model.get("properties", {}).items()
    )


def _documented(options: type[Any]) -> tuple[str, dict[str, str]]:
    """Return the summary in the docstring of an ``Options`` class, and the description of each parameter."""
    text = inspect.cleandoc(options.__doc__ or "")
    if text.startswith(f"{options.__name__}("):  # generated by dataclasses
        return "", {}
    about, _, parameters = text.partition("\n\nParameters\n----------\n")
    meanings: dict[str, str] = {}
    names: list[str] = []
    for line in parameters.splitlines():
        if line and not line[0].isspace():
            names = [name.strip() for name in line.split(",")]
        else:
            meanings |= {name: f"{meanings.get(name, '')} {line.strip()}".strip() for name in names}
    return ("" if parameters else about.replace("``", "`")), {k: v.replace("``", "`") for k, v in meanings.items()}


_HEAD = ["| key | type | default | meaning |", "|---|---|---|---|"]


def _row(name: str, kind: str, default: str | None, meaning: str) -> str:
    shown = "required" if default is None else "" if default in ("null", "") else f"`{default}`"
    return f"| `{name}` | {_cell(kind)} | {shown} | {_cell(meaning)} |"


def _table(section: JsonSchema, definitions: JsonSchema) -> list[str]:
    lines = list(_HEAD)
    for name, form in section["properties"].items():
        default = None if name in section.get("required", ()) else _default(form)
        target = definitions.get(str(_reference(form)), {})
        meaning = form.get("description") or target.get("description", "")
        lines.append(_row(name, _type(form, definitions), default, meaning))
    return [*lines, ""]


def _sections(section: JsonSchema, definitions: JsonSchema, path: str) -> Iterator[tuple[str, str]]:
    """Yield (dotted path, definition) of all nested sections, in the order of the file."""
    section = next((form for form in section.get("anyOf", ()) if "properties" in form), section)
    for name, form in section["properties"].items():
        found = _reference(form)
        if found is not None:
            below = f"{path}{name}{'[]' if _is_list(form) else '.NAME' if _is_named(form) else ''}"
            yield below, found
            yield from _sections(definitions[found], definitions, f"{below}.")


def _forms(form: JsonSchema) -> list[JsonSchema]:
    """Return the alternatives of a value without null."""
    alternatives = form.get("anyOf") or form.get("oneOf")
    if alternatives is None:
        return [] if form.get("type") == "null" else [form]
    return [inner for alternative in alternatives for inner in _forms(alternative)]


def _is_list(form: JsonSchema) -> bool:
    return any(inner.get("type") == "array" for inner in _forms(form))


def _is_named(form: JsonSchema) -> bool:
    return any(_named(inner) for inner in _forms(form))


def _named(form: JsonSchema) -> JsonSchema:
    """Return the form of the entries of a mapping whose keys are names of the user's; empty for others."""
    entries = [*form.get("patternProperties", {}).values(), form.get("additionalProperties")]
    return next((entry for entry in entries if isinstance(entry, dict)), {})


def _reference(form: JsonSchema) -> str | None:
    for inner in _forms(form):
        target = inner.get("$ref") or inner.get("items", {}).get("$ref") or _named(inner).get("$ref")
        if target is not None:
            return str(target).rpartition("/")[2]
    return None


def _type(form: JsonSchema, definitions: JsonSchema) -> str:
    return " or ".join(dict.fromkeys(_simple_type(inner, definitions) for inner in _forms(form)))


def _simple_type(form: JsonSchema, definitions: JsonSchema) -> str:
    if "$ref" in form:
        target = definitions.get(str(_reference(form)), {})
        return "text or mapping" if "anyOf" in target else "mapping"
    if "const" in form or "enum" in form:
        return ", ".join(f"`{value}`" for value in form.get("enum", [form.get("const")]))
    if form.get("type") == "array":
        return "list" if "$ref" in form.get("items", {}) else f"list of {_type(form.get('items', {}), definitions)}"
    if "format" in form and form["format"] != "path":
        return f"{form['format']} (`{form['examples'][0]}`)" if "examples" in form else str(form["format"])
    named = {
        "string": "text",
        "integer": "integer",
        "number": "number",
        "boolean": "true or false",
        "object": "mapping",
    }
    bounds = [
        f"{sign} {_bound(form[key])}"
        for key, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
        if key in form
    ]
    plain = "path" if form.get("format") == "path" else named.get(str(form.get("type")), "value")
    return " ".join([plain, ", ".join(bounds)]).strip()


def _bound(value: float) -> str:
    """Return a bound without a fraction of zero, and large powers of two as such."""
    whole = int(value)
    if whole != value:
        return str(value)
    power = whole.bit_length() - 1
    return f"2^{power}" if power >= 64 and whole == 1 << power else str(whole)


def _default(form: JsonSchema) -> str:
    """Return a default as in YAML; empty for sections, whose keys have defaults."""
    default = form.get("default")
    return "" if isinstance(default, dict | list) else _yaml(default)


def _yaml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
