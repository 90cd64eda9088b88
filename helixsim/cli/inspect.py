"""``helixsim inspect strategies | schema``: registered strategies and policies, and the reference of exp.yaml."""

from __future__ import annotations

import argparse
import dataclasses
import json

from helixsim.cli import options


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser("inspect", help="strategies and policies; reference of exp.yaml")
    inner = parser.add_subparsers(title="subjects", metavar="SUBJECT", required=True)
    strategies = inner.add_parser(
        "strategies", parents=[options.common()], help="placement strategies, routing, batching and spot policies"
    )
    strategies.set_defaults(func=run_strategies)
    schema = inner.add_parser(
        "schema",
        parents=[options.common()],
        help="reference of exp.yaml, sweep files, fleet plans and tenants, as JSON Schema or Markdown",
    )
    schema.add_argument("--markdown", action="store_true", help="print a Markdown reference instead of JSON Schema")
    which = schema.add_mutually_exclusive_group()
    which.add_argument("--sweep", action="store_true", help="schema of sweep files")
    which.add_argument("--fleet", action="store_true", help="schema of fleet plans")
    which.add_argument("--tenants", action="store_true", help="schema of exp.yaml with tenants")
    schema.set_defaults(func=run_schema)


def run_strategies(args: argparse.Namespace) -> None:
    """Print names, summaries and options."""
    from helixsim.config.reference import entries
    from helixsim.experiment import registries

    known = registries()
    groups = {
        "placement": entries(known.placement),
        "routing": entries(known.routing),
        "batching": entries(known.batching),
        "spot": entries(known.spot),
    }
    if args.json:
        print(json.dumps({group: [dataclasses.asdict(entry) for entry in found] for group, found in groups.items()}))
        return
    for group, found in groups.items():
        print(group)
        for entry in found:
            print(f"  {entry.name:<16} {entry.summary}")
            for option in entry.options:
                default = "required" if option.default is None else f"default {option.default}"
                print(f"  {'':<16}   {option.name} ({option.type}, {default}) {option.meaning}".rstrip())
        print()


def run_schema(args: argparse.Namespace) -> None:
    """Print the reference."""
    from helixsim.config.reference import markdown, schema, section_markdown, section_schema
    from helixsim.experiment import registries

    if args.sweep or args.fleet or args.tenants:
        from helixsim.config.plan_file import FleetSection
        from helixsim.config.sweep_schema import SweepSection
        from helixsim.config.tenants_schema import TenantsSection

        section = SweepSection if args.sweep else FleetSection if args.fleet else TenantsSection
        print(section_markdown(section) if args.markdown else json.dumps(section_schema(section), indent=2))
        return
    print(markdown(registries()) if args.markdown else json.dumps(schema(registries()), indent=2, ensure_ascii=False))
