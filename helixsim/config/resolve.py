"""Plain data of an experiment -> ResolvedExperiment."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from helixsim import units
from helixsim.config import checks, sizes
from helixsim.config.autoscaling import autoscaling_of, check_autoscaling
from helixsim.config.choices import Choices, Registries, is_file_name, look_up, names_file
from helixsim.config.digest import config_hash
from helixsim.config.document import with_defaults
from helixsim.config.engine import build_engine, calibration_of, kv_rules
from helixsim.config.experiment import CapacitySpec, ResolvedExperiment, SystemSpec, Variant
from helixsim.config.faults import build_faults
from helixsim.config.loads import build_arrivals, build_slo, build_workload, unstated
from helixsim.config.network import build_cluster, nodes_in_service
from helixsim.config.nodes import build_nodes, load_gpus, override_nodes
from helixsim.config.roles import check_roles, disaggregation_of, fleets_of
from helixsim.config.schema import ExperimentSection
from helixsim.config.source import Source, is_file, is_folder
from helixsim.config.whatif import described, overlay
from helixsim.config.whatif_schema import WhatifSection
from helixsim.config.widths import part_profiles, stated_widths
from helixsim.domain.cluster import Cluster, Deployment, Node
from helixsim.domain.hardware import GpuSpec, NodeProfile
from helixsim.errors import ConfigError, InfeasibleError, Problem, shortened, unknown_name
from helixsim.hardware import catalog
from helixsim.hardware.engine_support import unsupported
from helixsim.hardware.formats import format_faults, format_notes
from helixsim.hardware.models.load import files_of
from helixsim.hardware.operator_library import backend_of
from helixsim.hardware.profile_options import WITHOUT_FILE, ProfileOptions
from helixsim.hardware.profiles import node_profile
from helixsim.validation import problems_of
from helixsim.workload.feed import workload_stats
from helixsim.workload.spec import ArrivalsSpec, WorkloadSpec, WorkloadStats
from helixsim.yamlio import KeyPath


def resolve(source: Source, *, registries: Registries, is_part: bool = False) -> ResolvedExperiment:
    """Check an experiment and return it with all names resolved.

    Parameters
    ----------
    registries
        Registries of strategies and policies.
    is_part
        The nodes are a part of those of the file, whose references to absent regions and nodes are ignored.

    Raises
    ------
    ConfigError
        With all faults, each with file, line and column.
    DataError
        If a trace, table or profile named in the file is unreadable or invalid.
    InfeasibleError
        If all nodes together cannot hold the model.
    """
    source = source.completed()
    section, choices = _parse(source, registries)
    base = _Resolver(source, section, choices, is_part=is_part).experiment()
    if not section.whatif:
        return base
    names = [what.name for what in section.whatif]
    repeated = [
        source.problem(("whatif", number, "name"), f"the name {name!r} is already used")
        for number, name in enumerate(names)
        if name in names[:number]
    ]
    if repeated:
        raise _error(repeated)
    variants = [_variant(source, registries, base, number, what) for number, what in enumerate(section.whatif)]
    changed = [variant.experiment for variant in variants if variant.experiment is not None]
    parts = [experiment.config_hash for experiment in (base, *changed)]
    return dataclasses.replace(
        base,
        variants=tuple(variants),
        config_hash=hashlib.sha256(json.dumps(parts).encode()).hexdigest(),
        assumptions=tuple(dict.fromkeys(text for one in (base, *changed) for text in one.assumptions)),
        file_hashes=tuple(dict.fromkeys(file for one in (base, *changed) for file in one.file_hashes)),
    )


def _variant(
    source: Source, registries: Registries, base: ResolvedExperiment, number: int, what: WhatifSection
) -> Variant:
    """Return a what-if variant of the experiment."""
    source = overlay(source, number, what, [system.name for system in base.systems])
    try:
        section, choices = _parse(source, registries)
        changed = _Resolver(source, section, choices).experiment()
    except ConfigError as error:  # its place may be far from the variant
        raise error.within(f"variant {what.name}") from error
    except InfeasibleError as error:
        names = what.systems or [system.name for system in base.systems]
        return Variant(what.name, (), None, {f"{name}+{what.name}": name for name in names}, what.replan, str(error))
    bases = {f"{system.name}+{what.name}": system.name for system in changed.systems}
    systems = tuple(dataclasses.replace(system, name=f"{system.name}+{what.name}") for system in changed.systems)
    changes = tuple(described(base, changed, what))
    return Variant(what.name, changes, dataclasses.replace(changed, systems=systems), bases, what.replan)


def _parse(source: Source, registries: Registries) -> tuple[ExperimentSection, Choices]:
    """Check the structure of the file and its names."""
    too_long = list(sizes.check_lists(source))
    if too_long:
        raise _error(too_long)
    choices = look_up(source, registries)
    problems = [*source.problems, *choices.problems]
    try:
        section = ExperimentSection.model_validate(source.data)
    except ValidationError as error:
        problems += problems_of(error, source, ExperimentSection)
        raise _error(problems) from error
    problems += sizes.check_nodes(section, source)
    if problems:
        raise _error(problems)
    return section, choices


def _error(problems: list[Problem]) -> ConfigError:
    """Return an error with the problems in the order of the file."""

    def position(problem: Problem) -> tuple[str, int, int]:
        file, _, rest = problem.where.partition(":")
        numbers = [int(part) for part in rest.split(":") if part.isdecimal()]
        line, column = (*numbers, 0, 0)[:2]
        return file, line, column

    return ConfigError(sorted(dict.fromkeys(problems), key=position))


class _Resolver:
    """Builds the parts of an experiment from its sections, and collects problems."""

    def __init__(self, source: Source, section: ExperimentSection, choices: Choices, *, is_part: bool = False) -> None:
        self.is_part = is_part
        self.source = source
        self.section = section
        self.choices = choices
        self.problems: list[Problem] = []
        self.engine = build_engine(section.engine, source)
        # The default is the name of the strategy; of an import path only the class.
        self.names = [one.name or one.placement.strategy.rpartition(":")[2] for one in section.systems]

    def experiment(self) -> ResolvedExperiment:
        """Return the resolved experiment."""
        section, source = self.section, self.source
        calibration = calibration_of(section.engine, source)
        gpus = load_gpus(section.cluster.nodes, source)
        if calibration is not None:
            gpus = [calibration.applied(gpu) for gpu in gpus]
        nodes = build_nodes(section.cluster.nodes, gpus, self.engine.block_tokens, source, self.problems)
        kept, down = nodes_in_service(section.cluster, nodes, source, self.problems)
        in_service = {node.gpu for node in nodes if node.id in kept}
        gpus = [gpu for gpu in gpus if gpu.name in in_service or not in_service]  # nothing is asked of the others
        cluster = build_cluster(section.cluster, nodes, source, self.problems, is_part=self.is_part)
        cluster = cluster.without({node.id for node in nodes} - kept, paid=down)
        numbers = range(len(section.systems))
        all_nodes = [self._nodes(number, nodes) for number in numbers]
        own_nodes = [tuple(node for node in own if node.id in kept) for own in all_nodes]
        widths = stated_widths(nodes, source, self.problems)
        own_arrivals = [self._arrivals(number) for number in numbers]
        workload = self._workload(own_arrivals)
        profile_options, files = self._profile_options(), self._files()
        self.problems.extend(checks.check_names_unique(self.names, source))
        self.problems.extend(checks.check_sharing(section, self.engine.transfers, source))
        self.problems.extend(checks.check_engine(section, self.engine.spec, source))
        self.problems.extend(checks.check_baseline(section, self.names, source))
        self.problems.extend(checks.check_planning(section, workload, source))
        self.problems.extend(check_autoscaling(section, own_nodes, workload, self.engine.spec, source))
        faults = build_faults(section, cluster, workload, own_arrivals, self.engine.spec, source, self.problems)
        self.problems.extend(
            check_roles(section, all_nodes, self.engine, self.choices, faults, source, is_part=self.is_part)
        )
        beyond = unsupported(self.engine.spec.name, gpus)
        if not section.engine.allow_unsupported:
            self.problems.extend(
                source.problem(("engine", "name"), f"{text}; --allow-unsupported simulates it nevertheless")
                for text in beyond
            )
        if self.problems or workload is None:
            raise _error(self.problems)

        cluster = cluster.divided(widths)
        fleet, assumptions = self._fleet(cluster, gpus, profile_options)
        self.problems.extend(checks.check_options(self.choices.options, fleet, source))
        self.problems.extend(sizes.check_samples(section, workload, len(nodes), source))
        if self.problems:
            raise _error(self.problems)
        checks.check_fleet_holds_model(fleet)
        stats = self._stats(workload, fleet)
        if fleet.model.keeps_parts:
            usual = stats.mean_prompt_tokens + stats.mean_output_tokens / 2
            profile_options = dataclasses.replace(profile_options, sequence_tokens=usual)
            fleet, assumptions = self._fleet(cluster, gpus, profile_options)
        paths: list[KeyPath] = [("workload", "arrivals"), *(("systems", number, "arrivals") for number in numbers)]
        for path, arrivals in zip(paths, (workload.arrivals, *own_arrivals), strict=True):
            if arrivals is not None:
                self.problems.extend(sizes.check_requests(arrivals, path, workload, stats, source))
        self.problems.extend(checks.check_classes(section, stats, source))
        own = [dataclasses.replace(cluster, nodes=nodes).divided(widths) for nodes in own_nodes]
        fleets = fleets_of(section, fleet, own, profile_options, partial(self._fleet, gpus=gpus))
        self.problems += checks.check_tensor_parallel(section, nodes, fleets, source)
        self.problems += checks.check_whole_prompts(workload, section.seed, fleets, self.engine.spec, source)
        if self.problems:
            raise _error(self.problems)
        systems = tuple(map(self._system, numbers, fleets, own_arrivals))
        document = with_defaults(
            section, self.names, self.engine, self.choices, workload, fleet.model.precision, source.path.stem
        )
        file_hashes = tuple((name, hashlib.sha256(path.read_bytes()).hexdigest()) for name, path in files)
        sample, planned_rate = section.report.sample, section.planning.rate
        return ResolvedExperiment(
            name=document["name"],
            seed=section.seed,
            source=source.path,
            fleet=fleet,
            workload=workload,
            workload_stats=stats,
            systems=systems,
            baseline=document["baseline"],
            slo=build_slo(section.slo),
            unsupported=beyond,
            slo_targets=tuple((name, build_slo(one)) for name, one in (section.slo_targets or {}).items()),
            capacity=CapacitySpec(**section.capacity.model_dump()),
            document=document,
            config_hash=config_hash(document, file_hashes, fleet, [system.fleet.cluster for system in systems]),
            assumptions=tuple(dict.fromkeys([*beyond, *assumptions, *unstated(section), *stats.assumptions])),
            is_one_by_one=self.engine.transfers == "request",
            engine=self.engine.spec,
            sample_s=None if sample is None else units.parse(sample, "time"),
            planning_seed=section.planning.seed,
            planning_rate_rps=None if planned_rate is None else units.parse(planned_rate, "rate"),
            file_hashes=file_hashes,
            faults=faults,
        )

    def _workload(self, own_arrivals: Sequence[ArrivalsSpec | None]) -> WorkloadSpec | None:
        """Return the load of the experiment, checked together with the arrivals single systems have of their own."""
        workload = build_workload(self.section.workload, self.choices, self.source, self.problems)
        if workload is not None:
            for at, arrivals in enumerate((workload.arrivals, *own_arrivals), -1):
                if arrivals is not None:
                    path = ("workload", "arrivals") if at < 0 else ("systems", at, "arrivals")
                    self.problems.extend(checks.check_arrivals(arrivals, path, workload, self.source))
            self.problems.extend(checks.check_streams(workload, own_arrivals, self.source))
        return workload

    def _stats(self, workload: WorkloadSpec, fleet: Deployment) -> WorkloadStats:
        """Return the means of the load, once its lengths are known to fit the model."""
        try:
            too_long = list(checks.check_context(workload, self.section.seed, fleet, self.source))
            stats = workload_stats(workload, self.section.seed)
        except ConfigError as error:  # found while reading or drawing: the load knows the key, not the file
            keys = [("workload", *(one.path.split(".") if one.path else ())) for one in error.problems]
            problems = [self.source.problem(key, p.message) for key, p in zip(keys, error.problems, strict=True)]
            raise _error(problems) from error
        if too_long:
            raise _error(too_long)
        return stats

    def _arrivals(self, number: int) -> ArrivalsSpec | None:
        section = self.section.systems[number].arrivals
        if section is None:
            return None
        path = ("systems", number, "arrivals")
        return build_arrivals(section, path, self.section.workload, self.source, self.problems)

    def _nodes(self, number: int, nodes: tuple[Node, ...]) -> tuple[Node, ...]:
        overrides, path = self.section.systems[number].nodes, ("systems", number, "nodes")
        of_absent = [] if self.is_part else self.problems
        return override_nodes(nodes, overrides, self.engine.block_tokens, path, self.source, of_absent)

    def _profile_options(self) -> ProfileOptions:
        section, engine = self.section.engine, self.engine
        written = section.model_dump(include={field.name for field in dataclasses.fields(ProfileOptions)})
        written |= {"memory_fraction": engine.gpu_memory_utilization, "block_tokens": engine.block_tokens}
        written |= {"max_prefill_tokens": section.max_num_batched_tokens, "max_decode_seqs": section.max_num_seqs}
        if section.cuda_graph_sizes is not None:
            written["graph_sizes"] = tuple(sorted(set(section.cuda_graph_sizes)))
        written |= {
            "least_kv_tokens": self.section.max_context_tokens,
            "holds_ends": engine.spec.has_output_head,
            "has_mtp": engine.spec.speculation is not None and engine.spec.speculation.is_mtp,
            "steps": engine.steps,
            "backend": backend_of(engine.spec.name),
            "kernels": engine.kernels,
        }
        written |= {"data_parallel_size": section.data_parallel_size or 1}
        written |= {"enable_expert_parallel": bool(section.enable_expert_parallel)}
        for key in ("timings", "limits"):
            if written[key] is not None and written[key] not in WITHOUT_FILE:
                written[key] = self.source.file(("engine", key), written[key])
        return ProfileOptions(**written)

    def _files(self) -> list[tuple[str, Path]]:
        """Return (name as written, path) of every file the experiment names, except the cluster's own YAML."""
        section, source = self.section, self.source
        links, trace = section.cluster.network.links, section.workload.trace
        named: list[tuple[KeyPath, str | None]] = [
            (("engine", "name"), section.engine.name if is_file_name(section.engine.name) else None),
            (("cluster", "network", "links"), links if isinstance(links, str) else None),
            (("workload", "trace", "path"), None if trace is None else trace.path),
            (("engine", "timings"), None if section.engine.timings in WITHOUT_FILE else section.engine.timings),
            (("engine", "limits"), section.engine.limits),
            (("engine", "calibration"), section.engine.calibration),
        ]
        files = [(name, path, source.file(path, name)) for path, name in named if name is not None]
        if (model_file := self._model_file()) is not None:
            files += [(name, ("model",), file) for name, file in files_of(section.model, model_file)]
        files += [
            (self.choices.documents[path[:-1]][str(path[-1])], path, file) for path, file in self.choices.files.items()
        ]
        for name, path, file in files:
            if not is_file(file):
                message = f"no such file: {shortened(str(file))}"
                if path == ("engine", "timings") and not Path(name).suffix:
                    message = unknown_name("source of timings", name, (*WITHOUT_FILE, "the path of a file"))
                self.problems.append(source.problem(path, message))
        return [(name, file) for name, _, file in files]

    def _model_file(self) -> Path | None:
        """Return the file of the model, None for models in the catalogue."""
        name = self.section.model
        if not names_file("model", name, ("model",), self.source):
            return None
        file = self.source.file(("model",), name)
        return file / "config.json" if is_folder(file) else file

    def _fleet(
        self, cluster: Cluster, gpus: Sequence[GpuSpec], options: ProfileOptions, at: KeyPath = ("engine",)
    ) -> tuple[Deployment, list[str]]:
        """Return the fleet and what had to be assumed; nodes of one kind share a profile. ``at`` states the options."""
        section = self.section
        spec_of = {gpu.name: gpu for gpu in gpus}
        file = self._model_file()
        model = catalog.load_model(section.model if file is None else file, section.precision, section.kv_precision)
        assumptions = list(model.notes)
        # The name goes into results and hashes, where the path of one machine has no place.
        model = dataclasses.replace(model, name=model.name if file is None else section.model, notes=())
        if section.max_context_tokens is not None:
            model = dataclasses.replace(model, max_context_tokens=section.max_context_tokens)
        faults = [
            self.source.problem((key if getattr(section, key) is not None else "model",), fault)
            for key, fault in format_faults(model, gpus)
        ]
        spec = self.engine.spec
        faults += checks.check_parallelism(section.engine, options, spec, (model, cluster), at, self.source)
        assumptions += format_notes(model, gpus)
        if faults:
            raise _error([*self.problems, *faults])
        profiles: dict[str, NodeProfile] = {}
        for node in cluster.nodes:
            if node.node_type not in profiles:
                profiles[node.node_type], sentences = node_profile(model, spec_of[node.gpu], node.gpus, options)
                assumptions += sentences
        parts = part_profiles(section.systems, model, cluster, profiles, spec_of, options)
        return Deployment(model, cluster, tuple(profiles[node.node_type] for node in cluster.nodes), parts), assumptions

    def _system(self, number: int, fleet: Deployment, arrivals: ArrivalsSpec | None) -> SystemSpec:
        section, options, chosen = self.section.systems[number], self.choices.options, self.choices.documents
        placement, routing, batching, scaling = (
            ("systems", number, key) for key in ("placement", "routing", "batching", "autoscaling")
        )
        return SystemSpec(
            name=self.names[number],
            placement=chosen[placement]["strategy"],
            placement_options=options[placement],
            routing=chosen[routing]["policy"],
            routing_options=options[routing],
            batching=chosen[batching]["policy"],
            batching_options=options[batching],
            kv=kv_rules(self.section, section.kv, self.engine.spec),
            fleet=fleet,
            arrivals=arrivals,
            autoscaling=autoscaling_of(
                section.autoscaling,
                *(
                    of_policy
                    for path in (scaling, (*scaling, "spot"))
                    for of_policy in (chosen.get((*path, "policy")), options.get((*path, "options")))
                ),
            ),
            disaggregation=disaggregation_of(section, number, self.choices, self.engine.spec),
        )
