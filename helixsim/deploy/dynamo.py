"""A ``DynamoGraphDeployment`` (``nvidia.com/v1beta1``, NVIDIA Dynamo 1.x) of a placement.

Dynamo gives all pods of a worker over several nodes one template, so the machines of a pipeline must be alike.
"""

from __future__ import annotations

from typing import Any

from helixsim.deploy.kubernetes import documents
from helixsim.deploy.servers import Server, Servers, require_equal_machines

IMAGE = "nvcr.io/nvidia/ai-dynamo/vllm-runtime:latest"


def graph(servers: Servers) -> str:
    """Return the graph: a frontend that routes by KV cache and load, and a worker for each server.

    Raises
    ------
    ConfigError
        If a pipeline has machines of several types.
    """
    require_equal_machines(servers, "dynamo")
    frontend = _component("Frontend", "frontend", {"name": "main", "image": IMAGE,
                          "env": [{"name": "DYN_ROUTER_MODE", "value": "kv"}]}, {})  # fmt: skip
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


def _worker(model: str, server: Server) -> dict[str, Any]:
    container = {
        "name": "main",
        "image": IMAGE,
        "command": ["python3", "-m", "dynamo.vllm"],
        "args": ["--model", model, *server.arguments()],
        "env": [{"name": name, "value": value} for name, value in server.environment.items()],
        "resources": {"limits": {server.stages[0].resource: str(server.hosts[0].gpus)}},
    }
    hosts = [host.machine for host in server.hosts]
    term = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": hosts}]}
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}
    component = _component(server.name, "worker", container, {"affinity": affinity})
    if len(hosts) > 1:
        component["multinode"] = {"nodeCount": len(hosts)}
    return component


def _component(name: str, kind: str, container: dict[str, Any], pod: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "type": kind,
        "replicas": 1,
        "podTemplate": {"spec": {**pod, "containers": [container]}},
    }
