"""A ``DynamoGraphDeployment`` (``nvidia.com/v1beta1``, NVIDIA Dynamo 1.x) of a placement.

Dynamo gives all pods of a worker over several nodes one template, so the machines of a pipeline must be alike.
"""

from __future__ import annotations

import json
from typing import Any

from helixsim.deploy.kubernetes import documents
from helixsim.deploy.servers import Server, Servers, require_equal_machines
from helixsim.errors import ConfigError

IMAGE = "nvcr.io/nvidia/ai-dynamo/vllm-runtime:latest"


def graph(servers: Servers) -> str:
    """Return the graph: a frontend that routes by KV cache and load, and a worker for each server.

    Raises
    ------
    ConfigError
        If a pipeline has machines of several types, or some servers have roles and others serve both phases.
    """
    require_equal_machines(servers, "dynamo")
    router: dict[str, Any] = {"name": "main", "image": IMAGE, "env": [{"name": "DYN_ROUTER_MODE", "value": "kv"}]}
    if servers.have_roles:
        if both := [server.name for server in servers.servers if server.role == "both"]:
            raise ConfigError(
                f"--export dynamo: {', '.join(both[:3])} serves both phases beside servers with roles, which Dynamo "
                "has no mode for: give its nodes the role prefill or decode, or use '--export llm-d'"
            )
        router |= {"command": ["python3", "-m", "dynamo.frontend"], "args": _conditions(servers.most_local_tokens)}
    frontend = _component("Frontend", "frontend", router, {})
    workers = [_worker(servers.model, server) for server in servers.servers]
    return documents(
        servers,
        [
            {
                "apiVersion": "nvidia.com/v1beta1",
                "kind": "DynamoGraphDeployment",
                "metadata": {"name": servers.name},
                "spec": {"backendFramework": "vllm", "components": [frontend, *workers]},
            }
        ],
    )


def _conditions(most_local_tokens: int | None) -> list[str]:
    """Return the options of the router by which short prompts stay on the side that decodes (Dynamo 1.5)."""
    options = ["--router-mode", "kv"]
    if most_local_tokens is not None:
        rule = {"policy": "isl_bounding", "eff_isl_threshold": most_local_tokens + 1, "eff_isl_ratio_threshold": 1.0}
        options += ["--router-conditional-disagg", "--router-conditional-disagg-config", json.dumps(rule)]
    return options


def _worker(model: str, server: Server) -> dict[str, Any]:
    is_whole = server.role == "both"
    container = {
        "name": "main",
        "image": IMAGE,
        "command": ["python3", "-m", "dynamo.vllm"],
        "args": ["--model", model, *([] if is_whole else ["--disaggregation-mode", server.role]), *server.arguments()],
        "env": [{"name": name, "value": value} for name, value in server.environment.items()],
        "resources": {"limits": {server.stages[0].resource: str(server.hosts[0].gpus)}},
    }
    component = _component(server.name, "worker" if is_whole else server.role, container, _affinity(server))
    if len(server.hosts) > 1:
        component["multinode"] = {"nodeCount": len(server.hosts)}
    return component


def _affinity(server: Server) -> dict[str, Any]:
    """Return what binds the pods of a worker to its machines; nothing for instances, which machines have several of."""
    hosts = [host.machine for host in server.hosts if not host.is_instance]
    if not hosts:
        return {}
    term = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": hosts}]}
    return {
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}
    }


def _component(name: str, kind: str, container: dict[str, Any], pod: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "type": kind,
        "replicas": 1,
        "podTemplate": {"spec": {**pod, "containers": [container]}},
    }
