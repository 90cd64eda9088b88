"""A resolved experiment as JSON values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from helixsim.config.choices import Choices
from helixsim.config.schema import ExperimentSection
from helixsim.hardware.engines import NOT_OF_EXPERIMENTS, EngineProfile
from helixsim.workload.spec import WorkloadSpec


def with_defaults(
    section: ExperimentSection,
    names: Sequence[str],
    engine: EngineProfile,
    choices: Choices,
    workload: WorkloadSpec,
    precision: str,
    stem: str,
) -> dict[str, Any]:
    """Return the experiment with all defaults, which can be loaded again.

    Parameters
    ----------
    names
        Names of the systems.
    precision
        Number format of the weights.
    stem
        Name of the file, without suffix, which is that of an experiment without a name.
    """
    document = section.model_dump(mode="json", by_alias=True, exclude_none=True)
    document["name"] = section.name or stem
    document["precision"] = precision
    document["engine"] |= {key: value for key, value in engine.figures().items() if key not in NOT_OF_EXPERIMENTS}
    default_baseline = "swarm" if "swarm" in names else names[-1]
    document["baseline"] = section.baseline or default_baseline
    load = document["workload"]
    if any(one.arrivals is not None for one in workload.classes):
        load.pop("arrivals")  # each class has its own
        load.pop("limits")
    else:
        load["arrivals"]["process"] = workload.arrivals.process
    load["drain"] = workload.window.drain
    if workload.trace is not None:
        load["trace"]["format"] = workload.trace.format
    if workload.lengths is not None:
        load.setdefault("lengths", {"distribution": workload.lengths.distribution})
    for number, name in enumerate(names):
        document["systems"][number]["name"] = name
    for path, written in choices.documents.items():
        parent: Any = document
        for part in path[:-1]:
            parent = parent[part]
        parent[path[-1]] = written
    return document
