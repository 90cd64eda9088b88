"""A simulated system as a benchmark of a server would have reported it: ``vllm bench serve``, llm-d benchmark report.

The figures are those of the measurement window. Both files are read by ``compare``, and by the tools of those formats.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

import helixsim
from helixsim.domain.result import FloatArray
from helixsim.jsonio import json_values
from helixsim.results.run import Run
from helixsim.units import NS_PER_S, parse

LLMD_VERSION: Final = "0.2"
"""Schema of the llm-d benchmark report that is written (``llmd-benchmark-report`` 0.2 on PyPI)."""

_LATENCIES = {
    "time_to_first_token": ("ttft", "s"),
    "time_per_output_token": ("tpot", "s/token"),
    "inter_token_latency": ("itl", "s/token"),
    "request_latency": ("e2el", "s"),
}
_PERCENTILES = ("p50", "p75", "p90", "p95", "p99")


def vllm_result(run: Run, document: Mapping[str, Any]) -> dict[str, Any]:
    """Return what ``vllm bench serve --save-result`` writes.

    Parameters
    ----------
    document
        The resolved experiment (``config.resolved.yaml``).
    """
    figures, arrivals = run.summary.vllm_keys(), _arrivals(run.name, document)
    rate = arrivals.get("rate")
    return {
        "endpoint_type": "simulated",
        "backend": "simulated",
        "label": f"helixsim {run.name}",
        "model_id": document["model"],
        "num_prompts": figures["completed"] + figures["failed"],
        "request_rate": "inf" if rate is None else parse(rate, "rate"),
        "burstiness": arrivals.get("burstiness", 1.0),
        "max_concurrency": arrivals.get("concurrency"),
        **figures,
    }


def llmd_report(run: Run, document: Mapping[str, Any]) -> dict[str, Any]:
    """Return an llm-d benchmark report; a component of its stack for each replica of the model.

    Parameters
    ----------
    document
        The resolved experiment (``config.resolved.yaml``).
    """
    figures, arrivals = run.summary.vllm_keys(), _arrivals(run.name, document)
    lengths = {side: _length_statistics(values) for side, values in _lengths(run).items()}
    rate, concurrency = arrivals.get("rate"), arrivals.get("concurrency")
    asked: dict[str, Any] = {} if rate is None else {"rate_qps": parse(rate, "rate")}
    if concurrency is not None:
        asked["concurrency"] = concurrency
    throughput = {
        "request_rate": ("queries/s", figures["request_throughput"]),
        "output_token_rate": ("tokens/s", figures["output_throughput"]),
        "total_token_rate": ("tokens/s", figures["total_token_throughput"]),
    }
    load = {
        "tool": "helixsim",
        "tool_version": helixsim.__version__,
        "source": "sampled",
        **{f"{key}_seq_len": {"distribution": "other", "value": lengths[side]["mean"]}
           for key, side in (("input", "input_length"), ("output", "output_length"))},
        **asked,
    }  # fmt: skip
    aggregate = {
        "requests": {"total": figures["completed"] + figures["failed"], "failures": figures["failed"], **lengths},
        "latency": {name: _latency(figures, *kind) for name, kind in _LATENCIES.items()},
        "throughput": {
            name: {"units": units, "mean": mean} for name, (units, mean) in throughput.items() if mean is not None
        },
    }
    aggregate["latency"] = {name: found for name, found in aggregate["latency"].items() if found is not None}
    values: dict[str, Any] = json_values(
        {
            "version": LLMD_VERSION,
            "run": {"uid": f"{document['name']}-{run.name}", "description": "simulated by helixsim"},
            "scenario": {
                "stack": _stack(run, document),
                "load": {"metadata": {}, "standardized": load, "native": {}},
            },
            "results": {"request_performance": {"aggregate": aggregate}},
        }
    )
    return values


FORMATS: Final[dict[str, Callable[[Run, Mapping[str, Any]], dict[str, Any]]]] = {
    "vllm": vllm_result,
    "llm-d": llmd_report,
}


def _arrivals(system: str, document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the arrivals of a system: its own before those of the workload."""
    own = [one.get("arrivals") for one in document["systems"] if one["name"] == system]
    found: Mapping[str, Any] = (own and own[0]) or document["workload"]["arrivals"] or {}
    return found


def _latency(figures: Mapping[str, Any], metric: str, units: str) -> dict[str, Any] | None:
    """Return the statistics of a time [s], None if nothing was measured."""
    found = {name: figures.get(f"{source}_{metric}_ms") for name, source in
             (("mean", "mean"), ("stddev", "std"), *((one, one) for one in _PERCENTILES))}  # fmt: skip
    if found["mean"] is None:
        return None
    return {"units": units} | {name: value / 1e3 for name, value in found.items() if value is not None}


def _lengths(run: Run) -> dict[str, FloatArray]:
    """Return prompt and output tokens of the requests that finished in the window."""
    columns = run.request_columns("finish_ns", "prompt_tokens", "output_tokens")
    start_s, end_s = run.window_s
    finish_s = columns["finish_ns"] / NS_PER_S
    inside = (columns["finish_ns"] >= 0) & (finish_s > start_s) & (finish_s <= end_s)
    return {
        "input_length": columns["prompt_tokens"][inside].astype(np.float64),
        "output_length": columns["output_tokens"][inside].astype(np.float64),
    }


def _length_statistics(tokens: FloatArray) -> dict[str, Any]:
    if not len(tokens):
        return {"units": "count", "mean": 0.0}
    return {"units": "count", "mean": float(tokens.mean()), "stddev": float(tokens.std())} | {
        name: float(np.percentile(tokens, int(name[1:]))) for name in _PERCENTILES
    }


def _stack(run: Run, document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a component for each kind of replica, by the types and numbers of its nodes."""
    placement = run.placement_document
    types = {node["node"]: node["node_type"] for node in placement["nodes"]}
    kinds = Counter(tuple(types[node] for node in nodes) for nodes in placement["replicas"])
    engine = document["engine"]
    found = []
    for number, (nodes, replicas) in enumerate(kinds.items()):
        gpus = [_gpus(kind) for kind in nodes]
        ranks = engine.get("data_parallel_size") or 1
        parallelism = {"tp": math.gcd(*gpus) // ranks, "pp": len(nodes), "dp": ranks}
        model = " + ".join(dict.fromkeys(nodes))
        standardized = {
            "kind": "inference_engine",
            "tool": f"simulated {engine['name']}",
            "tool_version": helixsim.__version__,
            "role": "replica",
            "replicas": replicas,
            "model": {"name": document["model"]},
            "accelerator": {"model": model, "count": sum(gpus), "parallelism": parallelism},
        }
        metadata = {"label": f"{run.name}-{number}", "cfg_id": f"{run.name}-{number}"}
        found.append({"metadata": metadata, "standardized": standardized, "native": {"config": engine}})
    return found


def _gpus(node_type: str) -> int:
    """Return the GPUs of a node: 2 for ``l4x2``, 1 for ``l4`` (``Node.node_type``)."""
    found = re.fullmatch(r".+x(\d+)", node_type)
    return 1 if found is None else int(found[1])
