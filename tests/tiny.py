"""The small experiment that tests of planning start from."""

from __future__ import annotations

SWARM = "{name: swarm, placement: swarm}"


def tiny(*systems: str, warmup_s: int = 1, duration_s: int = 10) -> str:
    """Two L4 and three T4 that serve LLaMA-2 7B at 2 requests/s, as text of exp.yaml; ``systems`` in YAML."""
    lines = "".join(f"  - {system}\n" for system in systems or (SWARM,))
    return f"""\
schema: 1
name: tiny
model: llama-2-7b
cluster:
  nodes:
    - {{gpu: l4, count: 2}}
    - {{gpu: t4, count: 3}}
  network:
    intra_region: {{bandwidth: 10 Gbit/s, latency: 1 ms}}
workload:
  limits: {{max_prompt_tokens: 512, max_output_tokens: 64}}
  arrivals: {{process: poisson, rate: 2 /s}}
  warmup: {warmup_s} s
  duration: {duration_s} s
systems:
{lines}"""
