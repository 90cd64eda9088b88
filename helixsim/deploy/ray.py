"""Ray Serve's configuration of a placement (``serve run FILE``): an LLM application for each kind of server.

Ray assigns the stages of a pipeline to the bundles of a placement group in an order of its own, so all machines of a
pipeline must be alike. The type of a node is a resource of Ray, of which each machine offers one for each of its nodes.
"""

from __future__ import annotations

from typing import Any

from helixsim import yamlio
from helixsim.deploy.servers import Server, Servers, require_equal_machines


def config(servers: Servers) -> str:
    """Return the configuration; servers on equal machines with equal options are replicas of one application.

    Raises
    ------
    ConfigError
        If a pipeline has machines of several types.
    """
    require_equal_machines(servers, "ray")
    kinds: dict[tuple[object, ...], list[Server]] = {}
    for server in servers.servers:
        stages = tuple(tuple((one.node_type, one.gpus, one.layers) for one in host.stages) for host in server.hosts)
        kinds.setdefault((stages, tuple(server.options.items())), []).append(server)
    applications = [_application(servers.model, alike, only=len(kinds) == 1) for alike in kinds.values()]
    head = "".join(f"# {line}\n" for line in servers.comments)
    types = {stage.node_type: stage for server in servers.servers for stage in server.stages}
    for kind, stage in types.items():
        machine = f"machine of {stage.parts} {kind}" if stage.parts > 1 else kind
        seen = "CUDA_VISIBLE_DEVICES=MIG-UUID " if stage.is_instance else ""
        head += (
            f"""# Start Ray on each {machine} with: {seen}ray start ... --resources='{{"{kind}": {stage.parts}}}'\n"""
        )
    if len(kinds) > 1:
        head += "# Unequal servers are applications of their own: share requests among their routes as planned.\n"
    return head + yamlio.dump({"applications": applications})


def _application(model: str, alike: list[Server], *, only: bool) -> dict[str, Any]:
    first = alike[0]
    bundles = [{"GPU": host.gpus, "CPU": 1, host.stages[0].node_type: len(host.stages)} for host in first.hosts]
    llm: dict[str, Any] = {
        "model_loading_config": {"model_id": model, "model_source": model},
        "engine_kwargs": {name.replace("-", "_"): _value(value) for name, value in _switches(first).items()},
        "placement_group_config": {"bundles": bundles, "strategy": "STRICT_SPREAD"},
        "deployment_config": {"num_replicas": len(alike)},
    }
    if first.environment:
        llm["runtime_env"] = {"env_vars": first.environment}
    return {
        "name": first.name,
        "route_prefix": "/" if only else f"/{first.name}",
        "import_path": "ray.serve.llm:build_openai_app",
        "args": {"llm_configs": [llm]},
    }


def _switches(server: Server) -> dict[str, str]:
    """Return the options as keyword arguments: ``no-NAME`` is ``NAME`` with the value false."""
    return {
        name.removeprefix("no-"): value or ("false" if name.startswith("no-") else "true")
        for name, value in server.options.items()
    }


def _value(text: str) -> str | int | float | bool | None:
    return yamlio.scalar(text)
