"""``helixsim inspect``: what is registered, and the reference."""

from __future__ import annotations

import dataclasses
import json

from helixsim.cli.main import main
from helixsim.experiment import registries


def test_strategies_lists_every_registered_name_with_its_options(capsys):
    assert main(["inspect", "strategies", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    known = registries()
    for group, registry in (
        ("placement", known.placement),
        ("routing", known.routing),
        ("batching", known.batching),
        ("spot", known.spot),
    ):
        assert [entry["name"] for entry in listed[group]] == list(registry.names())
        for entry in listed[group]:
            fields = dataclasses.fields(registry.get(entry["name"]).Options)
            assert [option["name"] for option in entry["options"]] == [field.name for field in fields]


def test_strategies_for_people_names_them_all(capsys):
    assert main(["inspect", "strategies"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in (*registries().placement.names(), *registries().routing.names()))


def test_schema_is_json_and_markdown_on_request(capsys):
    assert main(["inspect", "schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema["required"] == ["schema", "model", "cluster", "systems"]
    assert main(["inspect", "schema", "--markdown"]) == 0
    assert capsys.readouterr().out.startswith("# exp.yaml")
