"""``engine`` section -> EngineProfile: the named profile with the changes in the section."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from helixsim import units
from helixsim.config.choices import is_file_name
from helixsim.config.schema import EngineSection
from helixsim.config.source import Source
from helixsim.hardware.engines import OVERHEADS, EngineProfile, load_engine
from helixsim.units import seconds_to_ns


def build_engine(section: EngineSection, source: Source) -> EngineProfile:
    """Return the engine profile of an experiment.

    Raises
    ------
    DataError
        If the profile is unreadable or invalid.
    """
    name = section.name
    engine = load_engine(source.file(("engine", "name"), name) if is_file_name(name) else name)
    own: dict[str, Any] = {}
    for key in OVERHEADS:
        text = getattr(section, key)
        if text is not None:
            own[f"{key}_ns"] = seconds_to_ns(units.parse(text, "time"))
    if section.mixed_batches is not None:
        own["shares_weight_reads"] = section.mixed_batches == "shared"
    if section.returns is not None:
        own["loops_inside"] = section.returns == "engine"
    if section.activation_copy is not None:
        own["copies_activations"] = section.activation_copy
    if section.output_head is not None:
        own["has_output_head"] = section.output_head
    if section.min_free_share is not None:
        own["min_free_share"] = section.min_free_share
    given = {key: getattr(section, key) for key in ("memory_fraction", "block_tokens", "transfers", "admission")}
    stated = {key: value for key, value in given.items() if value is not None}
    return replace(engine, spec=replace(engine.spec, **own), **stated)
