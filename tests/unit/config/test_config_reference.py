"""The reference names every key, and the JSON Schema carries the options of what is registered."""

from __future__ import annotations

from pydantic import BaseModel

from helixsim.config import reference, schema
from helixsim.config.fields import Choice


def sections():
    return [
        value
        for value in vars(schema).values()
        if isinstance(value, type) and issubclass(value, BaseModel) and value.__module__ == schema.__name__
    ]


def test_every_key_is_described_and_in_the_reference(registries):
    text = reference.markdown(registries)
    for section in sections():
        for name, field in section.model_fields.items():
            assert field.description, f"{section.__name__}.{name}"
            assert f"| `{field.alias or name}` |" in text
    assert "| value |" not in text


def test_options_are_in_the_reference_with_default_and_meaning(registries):
    entry, _ = reference.entries(registries.batching)
    assert [option.name for option in entry.options] == ["depth", "share", "file", "kinds"]
    assert (entry.options[1].default, entry.options[1].meaning) == ("0.5", "Said of both.")
    assert "| `share` | number | `0.5` | Said of both. |" in reference.markdown(registries)


def test_json_schema_lists_the_options_of_each_strategy(registries):
    choices = reference.schema(registries)["$defs"]["PlacementChoice"]["anyOf"]
    named = {form["properties"]["strategy"].get("const"): form for form in choices if "properties" in form}
    assert set(named) == {"helix", "swarm", "petals", None}
    assert set(named["helix"]["properties"]) == {"strategy", "depth", "share", "file", "kinds"}
    assert named["helix"]["additionalProperties"] is False


def test_every_choice_may_be_a_mere_name(registries):
    definitions = reference.schema(registries)["$defs"]
    for section in sections():
        if issubclass(section, Choice):
            assert {"type": "string"} in definitions[section.__name__]["anyOf"]


def test_sections_under_names_of_the_users_own_are_in_the_reference(registries):
    text = reference.markdown(registries)
    for heading in ("## workload.classes.NAME", "## slo.classes.NAME", "## slo_targets.NAME"):
        assert f"{heading}\n" in text
