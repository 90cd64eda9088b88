"""``engine`` section -> EngineProfile: the named profile with the changes in the section."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from helixsim import units
from helixsim.config.choices import is_file_name
from helixsim.config.engine_schema import EngineSection
from helixsim.config.experiment import KvSpec
from helixsim.config.schema import ExperimentSection, KvSection
from helixsim.config.source import Source
from helixsim.domain.engine import EngineSpec
from helixsim.hardware.calibration import Calibration, load_calibration
from helixsim.hardware.engines import OVERHEADS, RESERVES_NOTHING, EngineProfile, load_engine
from helixsim.units import seconds_to_ns

CAPACITY_POLICIES = {"guaranteed_no_evict": "max_output", "max_utilization": "prompt"}
"""TensorRT-LLM's capacity scheduler policies -> ``admission``."""

_SPEC_FIELDS = {
    "activation_copy": "copies_activations",
    "output_head": "has_output_head",
    "min_free_share": "min_free_share",
    "admission": "admission",
    "schedule_conservativeness": "schedule_conservativeness",
    "enable_chunked_prefill": "chunks_prompts",
    "long_prefill_token_threshold": "long_prefill_token_threshold",
    "scheduler_recv_interval": "scheduler_recv_interval",
    "scheduling_policy": "scheduling_policy",
    "enable_prefix_caching": "caches_prefixes",
}
"""Key of the section -> field of ``EngineSpec`` with the same values."""


def kv_rules(section: ExperimentSection, own: KvSection, engine: EngineSpec) -> KvSpec:
    """Return the rules of admission: a system's own before the experiment's before those of its engine."""
    rules: dict[str, Any] = {}
    if engine.admission == "prompt":
        rules = RESERVES_NOTHING
    elif engine.admission == "max_output":
        load = section.workload
        factor = 1.0 if load.scale is None else load.scale.output_tokens
        longest = load.limits.max_output_tokens
        rules = {"max_reserved_share": 1.0, "expected_output_tokens": None if longest is None else longest * factor}
    stated = {**section.kv.model_dump(exclude_unset=True), **own.model_dump(exclude_unset=True)}
    return KvSpec(**{**KvSection().model_dump(), **rules, **stated})


def calibration_of(section: EngineSection, source: Source) -> Calibration | None:
    """Return the calibration of an experiment, None without one.

    Raises
    ------
    DataError
        If its file is unreadable or invalid.
    """
    name = section.calibration
    return None if name is None else load_calibration(source.file(("engine", "calibration"), name))


def build_engine(section: EngineSection, source: Source) -> EngineProfile:
    """Return the engine profile of an experiment.

    Raises
    ------
    DataError
        If the profile is unreadable or invalid.
    """
    name = section.name
    engine = load_engine(source.file(("engine", "name"), name) if is_file_name(name) else name)
    found = calibration_of(section, source)
    own: dict[str, Any] = {} if found is None else dict(found.overheads_ns())
    for key in OVERHEADS:
        text = getattr(section, key)
        if text is not None:
            own[f"{key}_ns"] = seconds_to_ns(units.parse(text, "time"))
    if section.mixed_batches is not None:
        own["shares_weight_reads"] = section.mixed_batches == "shared"
    if section.returns is not None:
        own["loops_inside"] = section.returns == "engine"
    if section.capacity_policy is not None:
        own["admission"] = CAPACITY_POLICIES[section.capacity_policy]
    for key, field in _SPEC_FIELDS.items():
        if getattr(section, key) is not None:
            own[field] = getattr(section, key)
    if section.speculative is not None:
        own["speculation"] = section.speculative.speculation()
    if section.kv_offloading is not None:
        own["kv_tiers"] = section.kv_offloading.tiers()
    if section.attention_dp_config is not None:
        own["attention_balance"] = section.attention_dp_config.balance()
    given = {key: getattr(section, key) for key in ("gpu_memory_utilization", "block_tokens", "transfers")}
    stated = {key: value for key, value in given.items() if value is not None}
    return replace(engine, spec=replace(engine.spec, **own), **stated)
