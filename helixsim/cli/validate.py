"""``helixsim validate EXP``: parse and check an experiment, and print its resolved summary."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from helixsim import units
from helixsim.cli import options

if TYPE_CHECKING:
    from helixsim.config.experiment import ResolvedExperiment
    from helixsim.domain.cluster import LinkSpec
    from helixsim.domain.faults import FaultSpec
    from helixsim.experiment import Experiment


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "validate",
        parents=[options.experiment(), options.common()],
        help="parse and check an experiment, print the resolved summary",
        description="Read an experiment and every file it names, report all faults at once, and print the resolved "
        "summary. Nothing is computed or written, and no user code is run: classes named as module:Class are located, "
        "but imported only with --plugins.",
    )
    parser.add_argument(
        "--plugins",
        action="store_true",
        help="import the classes that the experiment names as module:Class, which executes their files, and check "
        "their options",
    )
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> None:
    """Print the resolved summary; faults are raised as ``ConfigError``."""
    loaded = options.loaded(args)
    if loaded.has_tenants:
        _print_tenants(loaded, args)
        return
    experiment = loaded.resolve(imports=args.plugins)
    summary = summarise(experiment, plugins_imported=args.plugins)
    if args.json:
        print(json.dumps(summary, allow_nan=False))
    else:
        print("\n".join(_lines(summary)))


def _print_tenants(experiment: Experiment, args: argparse.Namespace) -> None:
    """Print the resolved summary of each tenant."""
    from helixsim.planning.tenants import resolved_tenants

    tenants = experiment.tenants()
    resolved = resolved_tenants(tenants, imports=args.plugins)
    found = {one.name: summarise(one, plugins_imported=args.plugins) for one in resolved}
    if args.json:
        print(json.dumps({"name": tenants.name, "tenants": found}, allow_nan=False))
        return
    print(f"{tenants.name}: {len(found)} tenants on {len(tenants.nodes)} nodes")
    for summary in found.values():
        print("\n".join(["", *_lines(summary)]))


def summarise(experiment: ResolvedExperiment, *, plugins_imported: bool = True) -> dict[str, Any]:
    """Return the summary as JSON values; bandwidths [bit/s], sizes [bytes], times [s].

    The hash is None if user classes were not imported, as the defaults of their options are unknown.
    """
    from helixsim.config.effort import effort
    from helixsim.report.tables import engine_text
    from helixsim.runtime.identity import experiment_plugins

    unknown = [] if plugins_imported else list(experiment_plugins(experiment))
    fleet, window, engine = experiment.fleet, experiment.workload.window, experiment.engine
    sessions, prompts = experiment.workload.sessions, experiment.workload.system_prompts
    model, network, stats = fleet.model, fleet.cluster.network, experiment.workload_stats
    return {
        "name": experiment.name,
        "config_hash": None if unknown else experiment.config_hash,
        "plugins_not_imported": unknown,
        "seed": experiment.seed,
        "model": {
            "name": model.name,
            "layers": model.num_layers,
            "precision": model.precision,
            "kv_precision": model.kv_precision,
            "weight_bytes_per_layer": model.weight_bytes_per_layer,
            "kv_bytes_per_token_per_layer": model.kv_bytes_per_token_per_layer,
            "max_context_tokens": model.max_context_tokens,
        },
        "engine": {
            "name": engine.name,
            "version": engine.version or None,
            "text": engine_text(engine, fleet.profiles),
        },
        "nodes": _nodes(experiment),
        "layers_that_fit": sum(len(profile.kv_blocks) for profile in fleet.profiles),
        "cost_usd_per_hour": round(fleet.cluster.cost_usd_per_hour, 6),
        "network": {
            "coordinator_region": fleet.cluster.coordinator_region,
            "intra_region": _link(network.intra_region),
            "inter_region": _link(network.inter_region),
            "region_pairs": len(network.regions),
            "single_links": len(network.pairs),
        },
        "workload": {
            "trace": None if experiment.workload.trace is None else experiment.workload.trace.path.name,
            "lengths": None if experiment.workload.lengths is None else experiment.workload.lengths.distribution,
            "streams": [one.name for one in experiment.workload.classes if one.arrivals is not None],
            "sessions": sessions and asdict(sessions),
            "system_prompts": prompts and asdict(prompts),
            "arrivals": experiment.workload.arrivals.process,
            "offered_rate_rps": stats.offered_rps,
            "mean_prompt_tokens": stats.mean_prompt_tokens,
            "mean_output_tokens": stats.mean_output_tokens,
            "num_requests": stats.num_requests,
            "dropped": dict(stats.dropped),
            "redrawn_share": stats.redrawn_share,
            "warmup_s": window.warmup_ns / units.NS_PER_S,
            "duration_s": None if window.duration_ns is None else window.duration_ns / units.NS_PER_S,
            "drain": window.drain,
        },
        "systems": [
            {
                "name": system.name,
                "placement": experiment.document["systems"][number]["placement"],
                "routing": experiment.document["systems"][number]["routing"],
                "batching": experiment.document["systems"][number]["batching"],
            }
            for number, system in enumerate(experiment.systems)
        ],
        "faults": [] if experiment.faults is None else list(_faults(experiment.faults)),
        "effort": asdict(effort(experiment)),
        "baseline": experiment.baseline,
        "slo": experiment.document["slo"],
        "assumptions": list(experiment.assumptions),
    }


def _nodes(experiment: ResolvedExperiment) -> list[dict[str, Any]]:
    """Return one entry per node type and region, in the order of the cluster."""
    fleet = experiment.fleet
    counts = Counter((node.node_type, node.region) for node in fleet.cluster.nodes)
    profile_of = {node.node_type: profile for node, profile in zip(fleet.cluster.nodes, fleet.profiles, strict=True)}
    return [
        {
            "node_type": node_type,
            "region": region,
            "count": count,
            "layers_that_fit": len(profile_of[node_type].kv_blocks),
            "max_layers": profile_of[node_type].max_layers,
            "limited_by": profile_of[node_type].limited_by,
            "kv_tokens_at_max_layers": profile_of[node_type].kv_tokens(
                profile_of[node_type].max_layers, fleet.model.num_layers
            ),
            "max_num_batched_tokens": profile_of[node_type].limits[-1].max_prefill_tokens,
            "max_num_seqs": profile_of[node_type].limits[-1].max_decode_seqs,
            "compute": profile_of[node_type].compute.source,
        }
        for (node_type, region), count in counts.items()
    ]


def _link(link: LinkSpec) -> dict[str, float]:
    return {"bandwidth_bps": link.bandwidth_bps, "latency_s": link.latency_ns / units.NS_PER_S}


def _lines(summary: dict[str, Any]) -> list[str]:
    model, load, network = summary["model"], summary["workload"], summary["network"]
    nodes, weight = summary["nodes"], units.format_bytes(model["weight_bytes_per_layer"])
    kinds = max([len("node type"), *(len(entry["node_type"]) for entry in nodes)])
    regions = max([len("region"), *(len(entry["region"]) for entry in nodes)])
    lines = [
        f"{summary['name']}: ok",
        "",
        f"model      {model['name']}, {model['layers']} layers of {weight} in {model['precision']}, "
        f"KV {model['kv_bytes_per_token_per_layer']} B per token and layer in {model['kv_precision']}, "
        f"context {model['max_context_tokens']} tokens",
        f"engine     {summary['engine']['text']}",
        f"cluster    {sum(entry['count'] for entry in nodes)} nodes with room for {summary['layers_that_fit']} layers, "
        f"{summary['cost_usd_per_hour']:.2f} $/h",
        "",
        f"  {'node type':<{kinds}}  {'region':<{regions}}  nodes  layers that fit  planned layers  KV tokens then  "
        "timings",
    ]
    lines += [
        f"  {entry['node_type']:<{kinds}}  {entry['region']:<{regions}}  {entry['count']:>5}  "
        f"{entry['layers_that_fit']:>15}  {entry['max_layers']:>14}  "
        f"{entry['kv_tokens_at_max_layers']:>14}  {entry['compute']}"
        for entry in nodes
    ]
    limits = {entry["node_type"]: entry["limited_by"] for entry in nodes if entry["limited_by"]}
    lines += [f"  {node_type}: no more layers are planned because of {limit}" for node_type, limit in limits.items()]
    lines += [
        "",
        f"network    {_shown_link(network['intra_region'])} inside a region, {_shown_link(network['inter_region'])} "
        f"between regions, coordinator in {network['coordinator_region']}",
        *_shown_exceptions(network),
        f"workload   {_shown_load(load)}",
        f"measured   {_shown_window(load)}",
        *(f"left out   {count} requests: {reason}" for reason, count in load["dropped"].items()),
        "",
        *(f"system     {_shown_system(system, summary['baseline'])}" for system in summary["systems"]),
        "",
        *(f"fault      {one}" for one in summary["faults"]),
        *([""] if summary["faults"] else []),
        f"time       {_shown_effort(summary['effort'])}",
    ]
    if summary["assumptions"]:
        lines += ["", *(f"assumed    {sentence}" for sentence in summary["assumptions"])]
    return lines


def _shown_link(link: dict[str, float]) -> str:
    return f"{units.format_bandwidth(link['bandwidth_bps'])} {units.format_seconds(link['latency_s'])}"


def _shown_exceptions(network: dict[str, Any]) -> list[str]:
    counts = [
        f"{network[key]} {label}"
        for key, label in (("region_pairs", "pairs of regions"), ("single_links", "single links"))
        if network[key]
    ]
    return [f"           exceptions: {', '.join(counts)}"] if counts else []


def _shown_load(load: dict[str, Any]) -> str:
    rate = "" if load["offered_rate_rps"] is None else f", {load['offered_rate_rps']:.4g} requests/s"
    redrawn = f" ({load['redrawn_share']:.1%} of draws outside the limits)" if load["redrawn_share"] else ""
    if load["streams"]:
        return (
            f"arrivals of {', '.join(load['streams'])}{rate}: mean prompt {load['mean_prompt_tokens']:.0f}, "
            f"mean output {load['mean_output_tokens']:.0f} tokens{redrawn}"
        )
    return (
        f"{load['arrivals']} arrivals{rate}; lengths from {load['lengths'] or load['trace']}: mean prompt "
        f"{load['mean_prompt_tokens']:.0f}, mean output {load['mean_output_tokens']:.0f} tokens{redrawn}"
    )


def _shown_window(load: dict[str, Any]) -> str:
    warmup = f"{units.format_seconds(load['warmup_s'])} of warm-up" if load["warmup_s"] else "no warm-up"
    if load["duration_s"] is None:
        return f"after {warmup}, until the last request has completed"
    then = ", then drained" if load["drain"] else ""
    return f"{units.format_seconds(load['duration_s'])} after {warmup}{then}"


def _faults(spec: FaultSpec) -> Iterator[str]:
    """Yield sentences on what fails, in the order of time, then at random, and on the reaction."""
    absent = set(spec.absent)
    for one in spec.schedule:
        what = "usual speed" if one.factor == 1 else f"slow by a factor of {one.factor:g}"
        what = what if one.kind.value == "slow" else "join" if absent.intersection(one.nodes) else one.kind.value
        absent -= set(one.nodes)
        yield f"{_time(one.at_ns)} {what}: {_few(one.nodes)}"
    for link in spec.links:
        what = "cut" if link.is_cut else f"slow by a factor of {link.factor:g}"
        ends = f"{_few(sorted(link.near))} – {_few(sorted(link.far))}"
        until = "" if link.end_ns is None else f" until {_time(link.end_ns)}"
        yield f"{_time(link.at_ns)} links {what}{until}: {ends}"
    for random, what in ((spec.random, "machines or sites"), (spec.random_links, "sites cut off from each other")):
        if random is not None:
            fail, back = units.format_seconds(random.mtbf_s), units.format_seconds(random.mttr_s)
            yield f"at random: {len(random.groups)} {what}, each after {fail} and for {back} on average"
    yield f"reaction {spec.reaction.value}, known after {_time(spec.detection_ns)}"


def _time(ns: int) -> str:
    return units.format_seconds(ns / units.NS_PER_S)


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _shown_effort(one: dict[str, Any]) -> str:
    if one["simulation_cpu_s"] is None:
        text = "depends on the throughput: some 150 000 output tokens are simulated in a CPU second"
    else:
        text = (
            f"about {_rounded(one['requests'])} requests and {_rounded(one['output_tokens'])} output tokens in all "
            f"systems, {_rounded(one['simulation_cpu_s'])} CPU s"
        )
    if one["planned"]:
        names = ", ".join(one["planned"])
        known = one["planning_cpu_s"]
        spent = "several times that" if known is None else f"{_rounded(known[0])} to {_rounded(known[1])} CPU s"
        text += f"; planning {names}: {spent}"
    return text


def _rounded(value: float) -> str:
    """Return an estimate with two digits: ``1 300``."""
    if value < 1:
        return "less than 1"
    return f"{value:.2g}" if value < 100 else units.number(float(f"{value:.2g}"))


def _shown_system(system: dict[str, Any], baseline: str) -> str:
    mark = " (baseline)" if system["name"] == baseline else ""
    return (
        f"{system['name']}{mark}: placement {system['placement']['strategy']}, routing {system['routing']['policy']}, "
        f"batching {system['batching']['policy']}"
    )
