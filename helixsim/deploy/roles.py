"""What servers that prefill or decode alone have of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from helixsim.config.experiment import ResolvedExperiment, SystemSpec

TRANSFERS: Final = {"kv-transfer-config": '{"kv_connector":"NixlConnector","kv_role":"kv_both"}'}
"""How servers with roles exchange KV caches."""


def leg_sections(experiment: ResolvedExperiment, system: SystemSpec) -> dict[str, Mapping[str, Any]]:
    """Return what the experiment states of each leg of a system with roles; empty for one without."""
    if not system.is_disaggregated:
        return {}
    number = [one.name for one in experiment.systems].index(system.name)
    section = experiment.document["systems"][number].get("disaggregation") or {}
    return {role: section.get(role, {}) for role in ("prefill", "decode", "both")}


def with_leg(common: Mapping[str, str], section: Mapping[str, Any]) -> dict[str, str]:
    """Return the options of a server with a role: what its leg states goes before what all have."""
    options = {**common, **TRANSFERS}
    for name in ("enable-prefix-caching", "enable-expert-parallel"):
        stated = section.get(name.replace("-", "_"))
        if stated is not None:
            options.pop(name, None)
            options.pop(f"no-{name}", None)
            options[name if stated else f"no-{name}"] = ""
    return options


def notes_of_roles(engine: Mapping[str, Any]) -> list[str]:
    """Return what servers with roles leave to the user."""
    notes = ["Caches are sent by vLLM's NIXL connector: the networks and drivers that it needs are not stated here."]
    if engine.get("kv_offloading"):
        notes.append("Host memory was simulated behind the GPUs: join NixlConnector and OffloadingConnector in vLLM's "
                     "MultiConnector (--kv-transfer-config).")  # fmt: skip
    return notes
