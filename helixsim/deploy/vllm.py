"""A shell script that starts vLLM on every node of a placement: ``sh FILE NODE``."""

from __future__ import annotations

import shlex
from collections import Counter

from helixsim.deploy.servers import MASTER_PORT, PORT, Host, Server, Servers

_OF_INSTANCES = (
    "# A node that is an instance of a GPU (MIG): CUDA_VISIBLE_DEVICES=MIG-UUID sh FILE NODE on its machine, UUID by",
    "# nvidia-smi -L. As several may be on a machine, all have ports of their own; MASTER_ADDR is the machine.",
)


def script(servers: Servers) -> str:
    """Return the script; its argument is the id of the node it runs on, by default the name of the host."""
    lines = ["#!/bin/sh", *(f"# {line}" for line in servers.comments)]
    lines += [
        "# Usage on each node: sh FILE [NODE]. NODE is an id of the cluster (default: the name of the host). The first",
        "# node of a pipeline is reached by its id; MASTER_ADDR overrides it. Several servers on a node have ports of",
        f"# their own, from {PORT} on.",
        *(_OF_INSTANCES if servers.instances else ()),
        "set -eu",
        'NODE="${1:-$(hostname)}"',
        f"MODEL={shlex.quote(servers.model)}",
        'case "$NODE" in',
    ]
    started: dict[str, list[list[str]]] = {}
    listening: Counter[str] = Counter()
    for server in servers.servers:
        master = server.hosts[0].machine
        machine = "" if servers.instances else master  # where instances are is not known: perhaps all on one machine
        offset = listening[machine]
        listening[machine] += 1
        for rank, host in enumerate(server.hosts):
            started.setdefault(host.machine, []).append(_command(server, rank, host, master, offset))
    instances = {host.machine for server in servers.servers for host in server.hosts if host.is_instance}
    for machine, commands in started.items():
        lines.append(f"{shlex.quote(machine)})  # {'; '.join(about for about, *_ in commands)}")
        if machine in instances:
            lines.append('  : "${CUDA_VISIBLE_DEVICES:?state the UUID of the instance (nvidia-smi -L)}"')
        if len(commands) == 1:
            _, variables, command = commands[0]
            lines += [*([f"  export {variables}"] if variables else []), f"  exec {command}"]
        else:
            lines += [f"  {variables} {command} &" for _, variables, command in commands]
            lines += ["  trap 'kill 0' INT TERM", "  wait"]
        lines.append("  ;;")
    lines += [
        "*)",
        '  echo "node $NODE is not used by this placement" >&2',
        "  exit 2",
        "  ;;",
        "esac",
    ]
    return "\n".join(lines) + "\n"


def _command(server: Server, rank: int, host: Host, master: str, offset: int) -> list[str]:
    """Return what a machine runs for a server, its variables, and the command.

    ``offset`` is the number of servers before it on the machine of its first stage, which need other ports.
    """
    joining = server.joining(rank, "ADDRESS", MASTER_PORT + offset)
    at = [
        f'--master-addr="${{MASTER_ADDR:-{master}}}"' if one.endswith("=ADDRESS") else shlex.quote(one)
        for one in joining
    ]
    port = [f"--port={PORT + offset}"] if offset and not rank else []
    variables = {**server.environment, **host.visible_devices}
    command = " \\\n    ".join(['vllm serve "$MODEL"', *map(shlex.quote, server.arguments()), *port, *at])
    about = f"{server.name}: {host.about}"
    return [about, " ".join(f"{name}={value}" for name, value in variables.items()), command]
