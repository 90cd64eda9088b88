"""A shell script that starts vLLM on every node of a placement: ``sh FILE NODE``."""

from __future__ import annotations

import shlex

from helixsim.deploy.servers import Servers


def script(servers: Servers) -> str:
    """Return the script; its argument is the id of the node it runs on, by default the name of the host."""
    lines = ["#!/bin/sh", *(f"# {line}" for line in servers.comments)]
    lines += [
        "# Usage on each node: sh FILE [NODE]. NODE is an id of the cluster (default: the name of the host). The first",
        "# node of a pipeline is reached by its id; MASTER_ADDR overrides it.",
        "set -eu",
        'NODE="${1:-$(hostname)}"',
        f"MODEL={shlex.quote(servers.model)}",
        'case "$NODE" in',
    ]
    for server in servers.servers:
        master = server.stages[0].node
        for rank, stage in enumerate(server.stages):
            joining = server.joining(rank, "ADDRESS")
            at = [
                f'--master-addr="${{MASTER_ADDR:-{master}}}"' if one.endswith("=ADDRESS") else shlex.quote(one)
                for one in joining
            ]
            variables = "".join(f"{name}={value} " for name, value in server.environment.items())
            command = " \\\n    ".join(['vllm serve "$MODEL"', *map(shlex.quote, server.arguments()), *at])
            lines += [
                f"{shlex.quote(stage.node)})  # {server.name}: {stage.node_type}, {stage.layers} layers",
                f"  {variables}exec {command}" if not variables else f"  export {variables.strip()}\n  exec {command}",
                "  ;;",
            ]
    lines += [
        "*)",
        '  echo "node $NODE is not used by this placement" >&2',
        "  exit 2",
        "  ;;",
        "esac",
    ]
    return "\n".join(lines) + "\n"
