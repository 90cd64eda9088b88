"""The resolved experiment, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from helixsim.domain.autoscaling import AutoscalingSpec
from helixsim.domain.cluster import Deployment
from helixsim.domain.disaggregation import KvTransfer
from helixsim.domain.engine import IDEAL, EngineSpec
from helixsim.domain.faults import FaultSpec
from helixsim.domain.placement import Role
from helixsim.domain.request import Slo
from helixsim.errors import ConfigError, unknown_name
from helixsim.workload.spec import ArrivalsSpec, WorkloadSpec, WorkloadStats


@dataclass(frozen=True, slots=True)
class CapacitySpec:
    """Estimate of node capacities.

    ``model`` is ``paper`` (``flow.capacity``) or ``kv_limited`` (``flow.operating``). ``kv_occupancy`` is the share of
    KV memory in use assumed by ``paper``. Mean lengths [tokens], None: those of the workload.
    """

    model: str = "paper"
    kv_occupancy: float = 0.3
    prompt_tokens: float | None = None
    output_tokens: float | None = None


@dataclass(frozen=True, slots=True)
class KvSpec:
    """KV memory rules of admission, the same for every routing policy.

    Parameters
    ----------
    max_reserved_share
        Largest share of a node's KV blocks that may be reserved for admitted requests.
    expected_output_tokens
        Output length assumed for every request, as true lengths are unknown [tokens]; None: the mean of the workload.
    """

    max_reserved_share: float = 0.9
    expected_output_tokens: float | None = None


@dataclass(frozen=True, slots=True)
class LegSpec:
    """The nodes that serve one phase alone; options are instances of the ``Options`` of strategy and policy.

    ``caches_prefixes``: their engine keeps and shares KV blocks.
    """

    placement: str
    placement_options: Any
    routing: str
    routing_options: Any
    caches_prefixes: bool = True


@dataclass(frozen=True, slots=True)
class DisaggregationSpec:
    """How nodes that prefill and nodes that decode work together.

    ``most_local_tokens``, ``prefill_share``: see ``engine.inputs.Legs``.
    """

    prefill: LegSpec
    decode: LegSpec
    transfer: KvTransfer
    most_local_tokens: int | None = None
    prefill_share: float | None = 1.0

    def routed(self, policy: str, options: Any) -> DisaggregationSpec:
        """Return it with the routing of both legs."""
        prefill, decode = (replace(leg, routing=policy, routing_options=options) for leg in self.legs)
        return replace(self, prefill=prefill, decode=decode)

    @property
    def legs(self) -> tuple[LegSpec, LegSpec]:
        """Both legs."""
        return self.prefill, self.decode

    def leg(self, role: Role) -> LegSpec:
        """Return the leg that a role other than ``both`` serves."""
        return self.prefill if role == "prefill" else self.decode


@dataclass(frozen=True)
class SystemSpec:
    """One of the compared systems of an experiment.

    ``placement_options``, ``routing_options`` and ``batching_options`` are instances of the ``Options`` class of the
    strategy or policy. ``fleet`` is that of the experiment with the KV blocks and request limits of this system.
    ``arrivals`` replaces the arrivals of the experiment; None: those of the experiment. ``disaggregation`` says how
    nodes that serve one phase work together, where the fleet or the placement has any; ``placement`` is that of the
    nodes that serve both. ``autoscaling``: None: all replicas serve all the time.
    """

    name: str
    placement: str
    placement_options: Any
    routing: str
    routing_options: Any
    batching: str
    batching_options: Any
    kv: KvSpec
    fleet: Deployment
    disaggregation: DisaggregationSpec
    arrivals: ArrivalsSpec | None = None
    autoscaling: AutoscalingSpec | None = None

    def with_routing(self, policy: str, options: Any) -> SystemSpec:
        """Return the system with a routing policy, for both phases."""
        legs = self.disaggregation.routed(policy, options)
        return replace(self, routing=policy, routing_options=options, disaggregation=legs)

    @property
    def is_disaggregated(self) -> bool:
        """Whether some of its nodes serve one phase only."""
        return self.fleet.cluster.is_disaggregated


@dataclass(frozen=True)
class Variant:
    """A what-if variant of the experiment; its systems are named ``SYSTEM+NAME``.

    Parameters
    ----------
    changes
        Descriptions of the differences from the base.
    experiment
        The changed experiment; None if its nodes cannot hold the model, see ``failure``.
    bases
        Name of each system -> name of the unchanged system.
    replan
        Whether placements are searched again; otherwise those of the base are used on the remaining nodes.
    """

    name: str
    changes: tuple[str, ...]
    experiment: ResolvedExperiment | None
    bases: Mapping[str, str]
    replan: bool
    failure: str | None = None


@dataclass(frozen=True)
class ResolvedExperiment:
    """A checked experiment with all defaults, profiles and names resolved.

    Parameters
    ----------
    document
        The experiment with edits and all defaults, as JSON values.
    config_hash
        SHA-256 (hex) of the canonical JSON of ``document``, the contents of the files it names, the profiles and the
        version of helixsim.
    is_one_by_one
        One message per request, instead of one per batch and next node.
    engine
        Overheads of the serving engine.
    sample_s
        Interval of the time series [s]; None: chosen from the run.
    planning_seed, planning_rate_rps
        Seed and rate of placement searches; None: ``seed`` and the rate of the workload.
    assumptions
        Sentences on all roofline fallbacks, extrapolations and defaults that replace missing data.
    file_hashes
        (name as written, SHA-256 of the contents) of every file the experiment names: trace, tables, links, placements.
    slo_targets
        (name, objectives) of further targets, in order.
    variants
        What-if variants whose systems are compared with those of the experiment.
    unsupported
        Sentences on what the models do not represent.
    faults
        Faults of runs; placements are searched without them. None: none.
    """

    name: str
    seed: int
    source: Path
    fleet: Deployment
    workload: WorkloadSpec
    workload_stats: WorkloadStats
    systems: tuple[SystemSpec, ...]
    baseline: str
    slo: Slo
    capacity: CapacitySpec
    document: Mapping[str, Any]
    config_hash: str
    assumptions: tuple[str, ...]
    is_one_by_one: bool = False
    engine: EngineSpec = IDEAL
    sample_s: float | None = None
    planning_seed: int | None = None
    planning_rate_rps: float | None = None
    file_hashes: tuple[tuple[str, str], ...] = ()
    slo_targets: tuple[tuple[str, Slo], ...] = ()
    variants: tuple[Variant, ...] = ()
    unsupported: tuple[str, ...] = ()
    faults: FaultSpec | None = None

    def system(self, name: str) -> SystemSpec:
        """Return a system by name.

        Raises
        ------
        ConfigError
            If there is none of that name.
        """
        found = {system.name: system for system in self.systems}
        if name not in found:
            raise ConfigError(f"{self.source}: {unknown_name('system', name, found)}")
        return found[name]
