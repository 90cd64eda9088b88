"""The targets by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from helixsim.config.experiment import ResolvedExperiment, SystemSpec
from helixsim.deploy import dynamo, kubernetes, ray, vllm
from helixsim.deploy.servers import Servers, servers_of
from helixsim.domain.flowplan import FlowPlan
from helixsim.domain.placement import Placement
from helixsim.errors import ConfigError, unknown_name

TARGETS: Final[dict[str, Callable[[Servers], str]]] = {
    "vllm": vllm.script,
    "ray": ray.config,
    "kubernetes": kubernetes.manifests,
    "llm-d": kubernetes.llmd_manifests,
    "dynamo": dynamo.graph,
}


def names() -> tuple[str, ...]:
    """Return the names of the targets."""
    return tuple(TARGETS)


def text(
    target: str,
    experiment: ResolvedExperiment,
    system: SystemSpec,
    placement: Placement,
    plan: FlowPlan,
    *,
    model_id: str | None = None,
) -> str:
    """Return the file that starts a placement with a target's software.

    Parameters
    ----------
    model_id
        Hugging Face id or folder that servers load; None: the id that the catalogue has for the model.

    Raises
    ------
    ConfigError
        If the target is unknown or cannot serve the placement, with the reason.
    """
    if target not in TARGETS:
        raise ConfigError(unknown_name("export target", target, TARGETS))
    return TARGETS[target](servers_of(experiment, system, placement, plan, model_id))
