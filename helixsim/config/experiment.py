"""A resolved experiment: what the rest of helixsim receives. Plain values, no pydantic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helixsim.domain.cluster import Fleet
from helixsim.domain.engine import IDEAL, EngineSpec
from helixsim.domain.request import Slo
from helixsim.workload.spec import ArrivalsSpec, WorkloadSpec, WorkloadStats


@dataclass(frozen=True, slots=True)
class CapacitySpec:
    """How planners estimate the tokens/s of a node.

    ``model`` is ``paper`` (``flow.capacity``) or ``kv_limited`` (``flow.operating``). ``kv_occupancy`` is the share of
    KV memory ``paper`` assumes in use; mean lengths in tokens, None: those of the workload.
    """

    model: str = "paper"
    kv_occupancy: float = 0.3
    prompt_tokens: float | None = None
    output_tokens: float | None = None


@dataclass(frozen=True, slots=True)
class KvSpec:
    """KV memory rules at admission, the same for every routing policy.

    Parameters
    ----------
    max_reserved_share
        Largest share of a node's KV blocks that may be reserved for admitted requests.
    expected_output_tokens
        Output length assumed for a request whose true length nobody knows; None: the mean of the workload.
    """

    max_reserved_share: float = 0.9
    expected_output_tokens: float | None = None


@dataclass(frozen=True)
class SystemSpec:
    """One of the systems an experiment compares.

    ``placement_options``, ``routing_options`` and ``batching_options`` are instances of the ``Options`` class of the
    strategy or policy. ``fleet`` differs from the experiment's only by this system's pinned KV blocks and request caps.
    ``arrivals`` replaces the experiment's, None: the same load as all others.
    """

    name: str
    placement: str
    placement_options: Any
    routing: str
    routing_options: Any
    batching: str
    batching_options: Any
    kv: KvSpec
    fleet: Fleet
    arrivals: ArrivalsSpec | None = None


@dataclass(frozen=True)
class Variant:
    """The experiment with one change; its systems are called ``SYSTEM+NAME``.

    Parameters
    ----------
    changes
        What differs from the base, in words.
    experiment
        The changed experiment; None where no fleet of it can hold the model, see ``failure``.
    bases
        Name of each system -> name of the unchanged system.
    replan
        Whether placements are searched anew; else those of the base serve, on the nodes that are left.
    """

    name: str
    changes: tuple[str, ...]
    experiment: ResolvedExperiment | None
    bases: Mapping[str, str]
    replan: bool
    failure: str | None = None


@dataclass(frozen=True)
class ResolvedExperiment:
    """Everything a run needs.

    Parameters
    ----------
    document
        The experiment as written, with ``--set`` applied and every default filled in; JSON values only.
    config_hash
        SHA-256 (hex) of the canonical JSON of ``document``, of the contents of every file it names, of the profiles
        used and of the helixsim version.
    is_one_by_one
        Requests travel as a message each, not all of a batch that go the same way as one.
    engine
        Overheads of the serving engine.
    sample_s
        Interval of the time series [s]; None: chosen from the run.
    planning_seed, planning_rate_rps
        What placements are searched and tried with instead of ``seed`` and the workload's rate; None: those.
    assumptions
        Sentences on every roofline fallback, extrapolation or default that stands for missing data.
    file_hashes
        (name as written, SHA-256 of the contents) of every file the experiment names: trace, tables, links, placements.
    slo_targets
        (name, objectives) beside ``slo``, in order.
    variants
        Changes of this experiment whose systems are compared with its own.
    """

    name: str
    seed: int
    source: Path
    fleet: Fleet
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
