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


OF_ROLES: Final = ("llm-d", "dynamo")
"""Targets that route the two phases of a request to different servers."""


def names() -> tuple[str, ...]:
    """Return the names of the targets."""
    return tuple(TARGETS)


def require_roles(target: str, system: SystemSpec) -> None:
    """Raise ``ConfigError`` if the nodes of a system have roles and the target has none."""
    if system.is_disaggregated and target not in OF_ROLES:
        raise ConfigError(
            f"--export {target}: the nodes of {system.name} have roles, and {target} does not send the phases of a "
            f"request to different servers: use --export {' or '.join(OF_ROLES)}"
        )


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
    require_roles(target, system)
    return TARGETS[target](servers_of(experiment, system, placement, plan, model_id))
