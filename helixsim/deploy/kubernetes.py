"""Kubernetes manifests of a placement, plain or for llm-d.

Each machine of a server is a Deployment of one pod that is bound to its node by ``kubernetes.io/hostname``: stages on
unequal machines need a definite rank each, which the one worker template of a LeaderWorkerSet cannot state. Several
pods on a machine get GPUs of their own from the device plugin. Resources: apps/v1 and v1; for llm-d v0.7 labels
``llm-d.ai/*``, an ``InferencePool`` (``inference.networking.k8s.io/v1``) and an ``HTTPRoute``; for servers with roles
also llm-d's proxy beside those that decode, and a configuration for the endpoint picker (llm-d router v0.9).
"""

from __future__ import annotations

from typing import Any, Final

from helixsim import yamlio
from helixsim.deploy.servers import MASTER_PORT, PORT, Server, Servers

IMAGE = "vllm/vllm-openai:latest"
PICKER, PICKER_PORT = "llm-d-epp", 9002
"""Service and port of llm-d's endpoint picker, which is installed with its router."""

PROXY_IMAGE = "ghcr.io/llm-d/llm-d-router-disagg-sidecar:v0.9.0"
PROXIED_PORT: Final = 8200
"""Where servers listen behind llm-d's proxy, which takes the requests of a server that decodes."""

_SCORERS: Final = {"prefix-cache-scorer": 3, "queue-scorer": 2, "kv-cache-utilization-scorer": 2}
"""What llm-d weighs by default, as ``routing: prefix_aware`` does."""


def manifests(servers: Servers) -> str:
    """Return Deployments of all machines, and a Service before all servers."""
    app = servers.name
    found = [part for server in servers.servers for part in _server(servers, server, {"app": app})]
    found.append(_service(app, {"app": app, "role": "api"}, [("http", PORT)]))
    return documents(servers, found)


def llmd_manifests(servers: Servers) -> str:
    """Return Deployments with the labels of llm-d, the pool of servers and the route to it."""
    app = servers.name
    labels = {"llm-d.ai/inference-serving": "true", "llm-d.ai/model": _label(servers.model), "app": app}
    found = []
    for server in servers.servers:
        parts = _server(servers, server, labels)
        if servers.have_roles:
            _give_role(parts[0], server)
        found += parts
    if servers.have_roles:
        found.append(_picker_configuration(servers))
    picker = {"name": PICKER, "kind": "Service", "port": {"number": PICKER_PORT}}
    found.append(
        {
            "apiVersion": "inference.networking.k8s.io/v1",
            "kind": "InferencePool",
            "metadata": {"name": app},
            "spec": {
                "selector": {"matchLabels": {**labels, "role": "api"}},
                "targetPorts": [{"number": PORT}],
                "endpointPickerRef": picker,
            },
        }
    )
    pool = {"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": app}
    found.append(
        {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "metadata": {"name": app},
            "spec": {
                "parentRefs": [{"name": "inference-gateway"}],
                "rules": [{"matches": [{"path": {"type": "PathPrefix", "value": "/"}}], "backendRefs": [pool]}],
            },
        }
    )
    return documents(servers, found)


def _give_role(deployment: dict[str, Any], server: Server) -> None:
    """Label the first machine of a server with its role; where it decodes, llm-d's proxy fetches the prompts."""
    template = deployment["spec"]["template"]
    for labels in (deployment["metadata"]["labels"], template["metadata"]["labels"]):
        labels["llm-d.ai/role"] = server.role
    (container,) = template["spec"]["containers"]
    address = {"name": "VLLM_NIXL_SIDE_CHANNEL_HOST", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
    container["env"] = [*container["env"], address]
    if server.role == "prefill":
        return
    container["args"] = [*container["args"], f"--port={PROXIED_PORT}"]
    container["ports"] = [{"name": "vllm", "containerPort": PROXIED_PORT}]
    container["readinessProbe"] = {"httpGet": {"path": "/health", "port": PROXIED_PORT}}
    template["spec"]["initContainers"] = [
        {
            "name": "routing-proxy",
            "image": PROXY_IMAGE,
            "args": [f"--port={PORT}", f"--vllm-port={PROXIED_PORT}", "--kv-connector=nixlv2", "--secure-proxy=false"],
            "ports": [{"name": "http", "containerPort": PORT}],
            "restartPolicy": "Always",
        }
    ]


def _picker_configuration(servers: Servers) -> dict[str, Any]:
    """Return the configuration with which the endpoint picker chooses a server for each phase."""
    scorers = [{"pluginRef": name, "weight": weight} for name, weight in _SCORERS.items()]
    if servers.most_local_tokens is None:
        decider: dict[str, Any] = {"type": "always-disagg-pd-decider"}
    else:  # from so many tokens on that are not cached, prompts are computed elsewhere
        tokens = servers.most_local_tokens + 1
        decider = {"type": "prefix-based-pd-decider", "parameters": {"nonCachedTokens": tokens}}
    plugins = [
        decider,
        {"type": "disagg-profile-handler", "parameters": {"deciders": {"prefill": decider["type"]}}},
        *({"type": name} for name in ("disagg-headers-handler", "prefill-filter", "decode-filter", *_SCORERS)),
        {"type": "max-score-picker"},
    ]
    profiles = [
        {"name": role, "plugins": [{"pluginRef": f"{role}-filter"}, *scorers, {"pluginRef": "max-score-picker"}]}
        for role in ("prefill", "decode")
    ]
    rules = {
        "apiVersion": "inference.networking.x-k8s.io/v1alpha1",
        "kind": "EndpointPickerConfig",
        "plugins": plugins,
        "schedulingProfiles": profiles,
    }
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": f"{servers.name}-picker"},
        "data": {"roles.yaml": yamlio.dump(rules)},
    }


def documents(servers: Servers, found: list[dict[str, Any]]) -> str:
    """Return a file of several YAML documents below its comments."""
    lines = servers.comments
    if servers.instances:
        lines.append(
            f"Instances ({', '.join(servers.instances)}) are taken where they are free, by nvidia.com/mig-* (device "
            "plugin with the strategy 'mixed'); a nodeSelector tells equal profiles of different GPUs apart."
        )
    head = "".join(f"# {line}\n" for line in lines)
    return head + "---\n".join(yamlio.dump(part) for part in found)


def _server(servers: Servers, server: Server, labels: dict[str, str]) -> list[dict[str, Any]]:
    """Return the Deployments of a server's machines, and the Service by which they find the first one."""
    master = f"{server.name}-master"
    found = []
    for rank, host in enumerate(server.hosts):
        own = {**labels, "server": server.name, "rank": str(rank), "role": "worker" if rank else "api"}
        container: dict[str, Any] = {
            "name": "vllm",
            "image": IMAGE,
            "command": ["vllm", "serve", servers.model],
            "args": [*server.arguments(), *server.joining(rank, master)],
            "env": [{"name": name, "value": value} for name, value in server.environment.items()],
            "resources": {"limits": {host.stages[0].resource: str(host.gpus)}},
            "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}],  # a path in the container
        }
        if not rank:
            container["ports"] = [{"name": "http", "containerPort": PORT}]
            container["readinessProbe"] = {"httpGet": {"path": "/health", "port": PORT}}
        pod = {
            **({} if host.is_instance else {"nodeSelector": {"kubernetes.io/hostname": host.machine}}),
            "containers": [container],
            "volumes": [{"name": "shm", "emptyDir": {"medium": "Memory"}}],
        }
        found.append(
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": f"{server.name}-rank-{rank}", "labels": own},
                "spec": {
                    "replicas": 1,
                    "strategy": {"type": "Recreate"},
                    "selector": {"matchLabels": {"server": server.name, "rank": str(rank)}},
                    "template": {"metadata": {"labels": own}, "spec": pod},
                },
            }
        )
    if len(server.hosts) > 1:
        service = _service(master, {"server": server.name, "rank": "0"}, [("rendezvous", MASTER_PORT)])
        service["spec"] |= {"clusterIP": "None", "publishNotReadyAddresses": True}
        found.append(service)
    return found


def _service(name: str, selector: dict[str, str], ports: list[tuple[str, int]]) -> dict[str, Any]:
    listed = [{"name": port, "port": number} for port, number in ports]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": selector, "ports": listed},
    }


def _label(text: str) -> str:
    """Return a text as the value of a label: letters, digits, ``-``, ``_`` and ``.``, at most 63."""
    kept = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in text)
    return kept[-63:].strip("-_.")
