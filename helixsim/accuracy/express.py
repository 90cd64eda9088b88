"""A measured run as an experiment: the same load on the same GPUs, engine and model."""

from __future__ import annotations

from typing import Any

import helixsim as hx
from helixsim.accuracy.points import MeasuredPoint
from helixsim.accuracy.settings import engine_keys, kv_format, output_lengths

PROMPTS_PER_SEQUENCE = 10
"""Requests of a run for each one in flight: ``--num-prompts`` of InferenceX is ten times ``--max-concurrency``."""

MOST_REQUESTS, LEAST_REQUESTS = 2000, 20
"""At high concurrency fewer than ten for each in flight are simulated: at least ``LEAST_TURNS``, or this many."""

LEAST_TURNS = 3


def requests_of(point: MeasuredPoint) -> int:
    """Return the number of requests that are simulated."""
    wanted = max(PROMPTS_PER_SEQUENCE * point.concurrency, LEAST_REQUESTS)
    return max(min(wanted, MOST_REQUESTS), LEAST_TURNS * point.concurrency)


def document(point: MeasuredPoint, *, timings: str = "analytic") -> dict[str, Any]:
    """Return the experiment as plain data; ``timings`` as in exp.yaml."""
    engine: dict[str, Any] = {"name": point.engine, "timings": timings, **engine_keys(point)}
    if point.data_parallel > 1:
        engine["data_parallel_size"] = point.data_parallel
    if point.expert_parallel > 1:
        engine["enable_expert_parallel"] = True
    shortest_output, longest_output = output_lengths(point)
    written: dict[str, Any] = {
        "schema": 1,
        "name": "point",
        "model": point.model,
        "max_context_tokens": max(point.prompt_tokens + longest_output + 16, 2048),
        "cluster": {
            "nodes": [{"gpu": point.gpu, "gpus": point.gpus}],
            "network": {"intra_region": {"bandwidth": "100 Gbit/s", "latency": "0.05 ms"}},
        },
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
        "systems": [{"name": "instance", "placement": "separate"}],
    }
    if point.weights is not None:
        written["precision"] = point.weights
    kv = kv_format(point)
    if kv is not None:
        written["kv_precision"] = kv
    return written


def experiment_of(point: MeasuredPoint, *, timings: str = "analytic") -> hx.Experiment:
    """Return the experiment of a point."""
    return hx.Experiment.from_data(document(point, timings=timings))
