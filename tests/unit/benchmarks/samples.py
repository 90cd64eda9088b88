"""One benchmark, written as each tool would write it, after the structure that the tools document."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

PERCENTILES = (1, 5, 10, 25, 50, 75, 90, 95, 99)


@dataclass(frozen=True)
class Truth:
    """What happened, request by request, with seconds; and what was asked."""

    start: np.ndarray
    prompt: np.ndarray
    output: np.ndarray
    ttft: np.ndarray
    step: np.ndarray
    concurrency: int | None = None
    rate: float | None = None

    @property
    def latency(self) -> np.ndarray:
        return self.ttft + self.step * (self.output - 1)

    @property
    def end(self) -> np.ndarray:
        return self.start + self.latency

    @property
    def duration(self) -> float:
        return float(self.end.max() - self.start.min())

    @property
    def pooled(self) -> np.ndarray:
        return np.repeat(self.step, self.output - 1)

    def rates(self) -> tuple[float, float, float]:
        """Requests, output tokens and all tokens per second."""
        return (
            len(self.start) / self.duration,
            float(self.output.sum()) / self.duration,
            float((self.output + self.prompt).sum()) / self.duration,
        )


def truth(seed: int = 0, count: int = 40, *, concurrency: int | None = 8, rate: float | None = None) -> Truth:
    rng = np.random.default_rng(seed)
    return Truth(
        start=np.sort(rng.uniform(0, 20, count)),
        prompt=rng.integers(200, 900, count),
        output=rng.integers(2, 200, count),
        ttft=rng.uniform(0.02, 0.5, count),
        step=rng.uniform(0.005, 0.03, count),
        concurrency=concurrency,
        rate=rate,
    )


def vllm(true: Truth, *, detailed: bool = True) -> dict[str, Any]:
    requests, output, total = true.rates()
    document: dict[str, Any] = {
        "date": "20261101-120000", "endpoint_type": "openai", "backend": "openai", "model_id": "org/model",
        "num_prompts": len(true.start), "request_rate": "inf" if true.rate is None else true.rate, "burstiness": 1.0,
        "max_concurrency": true.concurrency, "duration": true.duration, "completed": len(true.start), "failed": 0,
        "total_input_tokens": int(true.prompt.sum()), "total_output_tokens": int(true.output.sum()),
        "request_throughput": requests, "request_goodput": None, "output_throughput": output,
        "total_token_throughput": total,
    }  # fmt: skip
    for metric, values in (("ttft", true.ttft), ("tpot", true.step), ("itl", true.pooled), ("e2el", true.latency)):
        document |= {
            f"mean_{metric}_ms": float(values.mean()) * 1e3,
            f"median_{metric}_ms": float(np.median(values)) * 1e3,
            f"std_{metric}_ms": float(values.std()) * 1e3,
            f"p99_{metric}_ms": float(np.percentile(values, 99)) * 1e3,
        }
    if detailed:
        document |= {
            "input_lens": true.prompt.tolist(), "output_lens": true.output.tolist(), "ttfts": true.ttft.tolist(),
            "itls": [[step] * (n - 1) for step, n in zip(true.step.tolist(), true.output.tolist(), strict=True)],
            "start_times": (true.start + 1000.5).tolist(), "errors": [""] * len(true.start),
        }  # fmt: skip
    return document


def sglang(true: Truth, *, detailed: bool = True) -> dict[str, Any]:
    renamed = {}
    for key, value in vllm(true, detailed=detailed).items():
        own = key.replace("_e2el_", "_e2e_latency_").replace("total_token_throughput", "total_throughput")
        if key not in ("start_times", "num_prompts", "burstiness", "model_id", "endpoint_type", "failed"):
            renamed[own] = value
    if true.rate is None:
        renamed["request_rate"] = float("inf")
    return renamed | {"backend": "sglang", "dataset_name": "random", "concurrency": 7.3, "accept_length": None}


def _guide_statistics(values: np.ndarray, weights: np.ndarray | None = None) -> dict[str, Any]:
    mean = float(np.average(values, weights=weights))
    return {
        "mean": mean, "median": float(np.median(values)), "mode": mean, "variance": float(values.var()),
        "std_dev": float(values.std()), "min": float(values.min()), "max": float(values.max()), "count": len(values),
        "total_sum": float(values.sum()),
        "percentiles": {f"p{at:02d}": float(np.percentile(values, at)) for at in PERCENTILES},
    }  # fmt: skip


def guidellm(*trues: Truth, rows: bool = True) -> dict[str, Any]:
    benchmarks = []
    for true in trues:
        later = true.output - 1
        metrics = {
            "requests_per_second": {"mean": true.rates()[0]},
            "output_tokens_per_second": {"mean": true.rates()[1]},
            "tokens_per_second": {"mean": true.rates()[2]},
            "request_latency": _guide_statistics(true.latency),
            "prompt_token_count": _guide_statistics(true.prompt),
            "output_token_count": _guide_statistics(true.output),
            "time_to_first_token_ms": _guide_statistics(true.ttft * 1e3),
            "time_per_output_token_ms": _guide_statistics(true.latency / true.output * 1e3, true.output),
            "inter_token_latency_ms": _guide_statistics(true.step * 1e3, later),
        }
        strategy = {"type_": "poisson", "rate": true.rate}
        if true.rate is None:
            strategy = {"type_": "concurrent", "streams": true.concurrency}
        columns = zip(true.start, true.prompt, true.output, true.ttft, true.step, true.latency, strict=True)
        requests = [
            {
                "type_": "generative_request_stats", "info": {"timings": {"request_start": 1.7e9 + float(start)}},
                "prompt_tokens": int(prompt), "output_tokens": int(output), "request_latency": float(latency),
                "time_to_first_token_ms": float(ttft) * 1e3, "inter_token_latency_ms": float(step) * 1e3,
            }
            for start, prompt, output, ttft, step, latency in columns
        ]  # fmt: skip
        totals = {"successful": len(true.start), "errored": 0, "incomplete": 0, "total": len(true.start)}
        benchmarks.append({
            "type_": "generative_benchmark",
            "config": {"strategy": strategy, "backend": {"model": "org/model"}},
            "metrics": {"request_totals": totals} | {key: {"successful": value} for key, value in metrics.items()},
            "requests": {"successful": requests if rows else [], "errored": [], "incomplete": []},
            "duration": true.duration,
        })  # fmt: skip
    return {"metadata": {"version": 2, "guidellm_version": "0.8.1"}, "config": {"spec": {}}, "benchmarks": benchmarks}


def _aiperf_statistics(values: np.ndarray, unit: str) -> dict[str, Any]:
    found = {f"p{at}": float(np.percentile(values, at)) for at in PERCENTILES}
    return {"unit": unit, "avg": float(values.mean()), "std": float(values.std()), "count": len(values)} | found


def aiperf(true: Truth, *, tool: str = "aiperf") -> dict[str, Any]:
    requests, output, total = true.rates()
    document: dict[str, Any] = {
        "request_throughput": {"unit": "requests/sec", "avg": requests},
        "request_latency": _aiperf_statistics(true.latency * 1e3, "ms"),
        "request_count": {"unit": "requests", "avg": float(len(true.start))},
        "time_to_first_token": _aiperf_statistics(true.ttft * 1e3, "ms"),
        "inter_token_latency": _aiperf_statistics(true.step * 1e3, "ms"),
        "inter_chunk_latency": _aiperf_statistics(true.pooled * 1e3, "ms"),
        "output_token_throughput": {"unit": "tokens/sec", "avg": output},
        "total_token_throughput": {"unit": "tokens/sec", "avg": total},
        "input_sequence_length": _aiperf_statistics(true.prompt, "tokens"),
        "output_sequence_length": _aiperf_statistics(true.output, "tokens"),
    }
    asked = {"concurrency": true.concurrency} if true.rate is None else {"request_rate": true.rate}
    if tool == "genai-perf":
        return document | {"input_config": {"model_names": ["org/model"], "perf_analyzer": {"stimulus": asked}}}
    config = {"endpoint": {"model_names": ["org/model"], "streaming": True}, "loadgen": asked}
    return document | {"schema_version": "1.4", "aiperf_version": "0.13.0", "input_config": config, "error_summary": []}


def aiperf_records(true: Truth) -> list[dict[str, Any]]:
    columns = zip(true.start, true.prompt, true.output, true.ttft, true.step, true.latency, strict=True)
    epoch_ns = 17 * 10**17
    rows = [
        {
            "metadata": {
                "session_num": number, "benchmark_phase": "profiling", "was_cancelled": False,
                "request_start_ns": epoch_ns + round(start * 1e9),
                "request_end_ns": epoch_ns + round((start + latency) * 1e9),
            },
            "metrics": {
                "time_to_first_token": {"value": ttft * 1e3, "unit": "ms"},
                "inter_token_latency": {"value": step * 1e3, "unit": "ms"},
                "request_latency": {"value": latency * 1e3, "unit": "ms"},
                "input_sequence_length": {"value": int(prompt), "unit": "tokens"},
                "output_sequence_length": {"value": int(output), "unit": "tokens"},
            },
            "error": None,
        }
        for number, (start, prompt, output, ttft, step, latency) in enumerate(columns)
    ]  # fmt: skip
    warm = {"metadata": {"benchmark_phase": "warmup", "request_start_ns": 10**18, "request_end_ns": 2 * 10**18}}
    return [warm | {"metrics": {}, "error": None}, *rows]


def _summary_statistics(values: np.ndarray) -> dict[str, float]:
    found = {"median" if at == 50 else f"p{at}": float(np.percentile(values, at)) for at in PERCENTILES}
    return {"mean": float(values.mean()), "min": float(values.min()), "max": float(values.max())} | found


def inference_perf(true: Truth) -> dict[str, Any]:
    requests, output, total = true.rates()
    asked = {"concurrency": true.concurrency, "requested_rate": 0.0}
    if true.rate is not None:
        asked = {"requested_rate": true.rate, "achieved_rate": true.rate}
    return {
        "benchmark_time_seconds": true.duration,
        "load_summary": {"count": len(true.start), "schedule_delay": {"mean": 0.001}} | asked,
        "successes": {
            "count": len(true.start),
            "latency": {
                "request_latency": _summary_statistics(true.latency),
                "normalized_time_per_output_token": _summary_statistics(true.latency / true.output),
                "time_per_output_token": _summary_statistics(true.step),
                "time_to_first_token": _summary_statistics(true.ttft),
                "inter_token_latency": _summary_statistics(true.pooled),
            },
            "throughput": {
                "input_tokens_per_sec": total - output, "output_tokens_per_sec": output,
                "total_tokens_per_sec": total, "requests_per_sec": requests,
            },
            "prompt_tokens": {"total": float(true.prompt.sum())} | _summary_statistics(true.prompt),
            "output_len": _summary_statistics(true.output),
        },
        "failures": {"count": 0, "request_latency": None},
    }  # fmt: skip


def inference_perf_requests(true: Truth, *, computed: bool = True) -> list[dict[str, Any]]:
    rows = []
    for start, prompt, output, ttft, step, end in zip(
        true.start, true.prompt, true.output, true.ttft, true.step, true.end, strict=True
    ):
        row: dict[str, Any] = {"start_time": 5e4 + start, "end_time": 5e4 + end, "request": "{}", "error": None}
        if computed:
            row["computed_metrics"] = {
                "request_latency": end - start, "time_to_first_token": ttft, "time_per_output_token": step,
                "input_tokens": int(prompt), "output_tokens": int(output),
            }  # fmt: skip
        else:
            times = [5e4 + start + ttft + step * token for token in range(int(output))]
            row["info"] = {"input_tokens": int(prompt), "output_tokens": int(output), "output_token_times": times}
        rows.append(row)
    return rows


def llmd(true: Truth, *, version: str = "0.2") -> dict[str, Any]:
    requests, output, total = true.rates()

    def statistics(values: np.ndarray, units: str, factor: float = 1.0) -> dict[str, Any]:
        found = {f"p{at}": float(np.percentile(values, at)) * factor for at in PERCENTILES}
        return {"units": units, "mean": float(values.mean()) * factor, "stddev": float(values.std()) * factor} | found

    asked = {"rate_qps": true.rate} if true.rate is not None else {"concurrency": true.concurrency}
    is_old = version == "0.1"
    per_token = {"units": "ms/token", "factor": 1e3} if is_old else {"units": "s/token"}
    once = {"units": "ms", "factor": 1e3} if is_old else {"units": "s"}
    found = {
        "requests": {
            "total": len(true.start), "failures": 0,
            "input_length": statistics(true.prompt, "count"), "output_length": statistics(true.output, "count"),
        },
        "latency": {
            "time_to_first_token": statistics(true.ttft, **once),
            "inter_token_latency": statistics(true.pooled, **per_token),
            "time_per_output_token": statistics(true.step, **per_token),
            "request_latency": statistics(true.latency, **once),
        },
    }  # fmt: skip
    if is_old:
        found["throughput"] = {
            "output_tokens_per_sec": output, "total_tokens_per_sec": total, "requests_per_sec": requests,
        }  # fmt: skip
        scenario = {"model": {"name": "org/model"}, "load": {"name": "vllm-benchmark", "args": {"max-concurrency": 8}}}
        return {"version": version, "scenario": scenario, "metrics": found}
    found["throughput"] = {
        "request_rate": {"units": "queries/s", "mean": requests},
        "output_token_rate": {"units": "tokens/s", "mean": output},
        "total_token_rate": {"units": "tokens/s", "mean": total},
    }
    stack = [{"standardized": {"kind": "inference_engine", "model": {"name": "org/model"}}}]
    load = {"standardized": {"tool": "inference-perf", "source": "random"} | asked}
    scenario = {"stack": stack, "load": load}
    return {
        "version": version,
        "run": {},
        "scenario": scenario,
        "results": {"request_performance": {"aggregate": found}},
    }


SINGLE = {
    "vllm": vllm,
    "vllm without lists": lambda true: vllm(true, detailed=False),
    "sglang": sglang,
    "sglang without lists": lambda true: sglang(true, detailed=False),
    "guidellm": guidellm,
    "guidellm without requests": lambda true: guidellm(true, rows=False),
    "aiperf": aiperf,
    "genai-perf": lambda true: aiperf(true, tool="genai-perf"),
    "inference-perf": inference_perf,
    "llm-d 0.2": llmd,
    "llm-d 0.2.1": lambda true: llmd(true, version="0.2.1"),
}
"""Formats that state the load: a document of a true run."""

WITHOUT_LOAD = {
    "inference-perf requests": inference_perf_requests,
    "inference-perf requests of 0.2": lambda true: inference_perf_requests(true, computed=False),
    "llm-d 0.1": lambda true: llmd(true, version="0.1"),
}


def write(path: Path, document: Any) -> Path:
    """Write a document as JSON; a list of requests of AIPerf as lines."""
    path.write_text(json.dumps(document))
    return path
