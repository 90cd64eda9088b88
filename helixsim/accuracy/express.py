"""A measured run as an experiment: the same load on the same GPUs, engine and model."""

from __future__ import annotations

from typing import Any

import helixsim as hx
from helixsim.accuracy.points import DISAGGREGATED, MeasuredPoint
from helixsim.accuracy.settings import engine_keys, kv_format, leg_keys, output_lengths, speculation, wire

PROMPTS_PER_SEQUENCE = 10
"""Requests of a run for each one in flight: ``--num-prompts`` of InferenceX is ten times ``--max-concurrency``."""

MOST_REQUESTS, LEAST_REQUESTS = 2000, 20
"""At high concurrency fewer than ten for each in flight are simulated: at least ``LEAST_TURNS``, or this many."""

LEAST_TURNS = 3

ROUTING = "round_robin"
"""Of Dynamo's frontend in front of disaggregated instances (``--router-mode``), which the recipes leave at its
default."""


def requests_of(point: MeasuredPoint) -> int:
    """Return the number of requests that are simulated."""
    wanted = max(PROMPTS_PER_SEQUENCE * point.concurrency, LEAST_REQUESTS)
    return max(min(wanted, MOST_REQUESTS), LEAST_TURNS * point.concurrency)


def document(point: MeasuredPoint, *, timings: str = "analytic") -> dict[str, Any]:
    """Return the experiment as plain data; ``timings`` as in exp.yaml."""
    cluster, engine, system = _split(point) if point.kind == DISAGGREGATED else _whole(point)
    engine = {"name": point.engine, "timings": timings, **engine}
    if point.drafts:
        engine["speculative"] = speculation(point)
    shortest_output, longest_output = output_lengths(point)
    written: dict[str, Any] = {
        "schema": 1,
        "name": "point",
        "model": point.model,
        "max_context_tokens": max(point.prompt_tokens + longest_output + 16, 2048),
        "cluster": cluster,
        "workload": {
            "lengths": {
                "distribution": "uniform",
                "prompt_min": max(1, round(point.prompt_tokens * point.spread)),
                "prompt_max": point.prompt_tokens,
                "output_min": shortest_output,
                "output_max": longest_output,
            },
            "limits": {"max_output_tokens": longest_output},
            "arrivals": {
                "process": "closed_loop",
                "concurrency": point.concurrency,
                "num_requests": requests_of(point),
            },
            "warmup": "0 s",
        },
        "engine": engine,
        "systems": [{"name": "instance", **system}],
    }
    if point.weights is not None:
        written["precision"] = point.weights
    kv = kv_format(point)
    if kv is not None:
        written["kv_precision"] = kv
    return written


def _whole(point: MeasuredPoint) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return cluster, engine and system of one instance that serves both phases."""
    engine = engine_keys(point) | _spread(point.data_parallel, point.expert_parallel)
    return _cluster("100 Gbit/s", {"gpu": point.gpu, "gpus": point.gpus}), engine, {"placement": "separate"}


def _split(point: MeasuredPoint) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return cluster, engine and system of instances that prefill and instances that decode."""
    engine, prefill, decode = leg_keys(point)
    prefill |= _spread(point.prefill_data_parallel, point.prefill_expert_parallel)
    decode |= _spread(point.data_parallel, point.expert_parallel)
    nodes = [
        {"gpu": point.gpu, "gpus": gpus, "role": role, "ids": [f"{role}-{number}" for number in range(count)]}
        for role, gpus, count in (
            ("prefill", point.prefill_gpus, point.prefill_workers), ("decode", point.gpus, point.decode_workers),
        )
    ]  # fmt: skip
    legs = {"prefill": prefill, "decode": decode}
    return (
        _cluster(wire(point), *nodes),
        engine,
        {"placement": "replicas", "routing": ROUTING, "disaggregation": legs},
    )


def _spread(data_parallel: int, expert_parallel: int) -> dict[str, Any]:
    keys: dict[str, Any] = {}
    if data_parallel > 1:
        keys["data_parallel_size"] = data_parallel
    if expert_parallel > 1:
        keys["enable_expert_parallel"] = True
    return keys


def _cluster(bandwidth: str, *nodes: dict[str, Any]) -> dict[str, Any]:
    return {
        "nodes": list(nodes),
        "network": {"intra_region": {"bandwidth": bandwidth, "latency": "0.05 ms"}},
    }


def experiment_of(point: MeasuredPoint, *, timings: str = "analytic") -> hx.Experiment:
    """Return the experiment of a point."""
    return hx.Experiment.from_data(document(point, timings=timings))
