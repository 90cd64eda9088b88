"""The load of a benchmark as the ``workload`` of an experiment, and how another load differs from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from helixsim import units
from helixsim.benchmarks.benchmark import Benchmark, Lengths
from helixsim.benchmarks.vllm import VLLM
from helixsim.errors import DataError
from helixsim.workload.readers.chat import NO_START_TIMES
from helixsim.writing import write_text

SAME = 0.02
"""Relative difference up to which two rates or lengths are the same."""

REQUESTS_PER_SLOT = 10
"""Requests for each one in the system where a file does not state how many there were."""


MEAN_LENGTHS = "all requests have the mean lengths, as the file does not state how they spread"


def workload_of(
    benchmark: Benchmark,
    where: str,
    trace: Path,
    own_lengths: Mapping[str, Any] | None = None,
    most_tokens: int | None = None,
) -> tuple[dict[str, Any], list[str]]:
    """Return the section ``workload`` that asks what the benchmark asked, and what had to be assumed.

    Requests come at the measured starts where there are any and the file states no concurrency, else in a closed loop
    or at the stated rate. Lengths are those of the single requests (in a closed loop drawn from them), else drawn
    from a distribution of the measured mean and standard deviation.

    Parameters
    ----------
    where
        Name of the benchmark in messages.
    trace
        File to write the single requests to, if there are any.
    own_lengths
        Distribution of the measured mean lengths, for a file that states no more than these.
    most_tokens
        Longest context of the model; None: not known. Longer requests are not drawn, as no server would take them.

    Raises
    ------
    DataError
        If the file states neither concurrency, rate nor starts, or no lengths.
    """
    load, requests = benchmark.load, benchmark.requests
    notes: list[str] = []
    known = bool(len(requests.prompt_tokens) and len(requests.output_tokens))
    starts = known and bool(len(requests.start_s))
    count = load.requests or (len(requests.output_tokens) if known else None)
    arrivals: dict[str, Any]
    if load.concurrency is not None and not load.is_open:
        if count is None:
            count = REQUESTS_PER_SLOT * load.concurrency
            notes.append(f"the number of requests is not stated: {count} are simulated")
        arrivals = {"process": "closed_loop", "concurrency": min(load.concurrency, count), "num_requests": count}
    elif starts:
        arrivals = {"process": "trace"}
        if not load.is_open and load.rate_rps is None:
            notes.append("neither rate nor concurrency is stated: requests come at their measured starts")
    elif load.rate_rps is not None and count is not None:
        arrivals = _at_rate(load.rate_rps, load.burstiness, count)
        if load.concurrency is not None:
            notes.append(f"requests wait for nothing; the benchmark had at most {load.concurrency} in the system")
    else:
        lacks = "number of requests" if load.rate_rps is not None else "concurrency, rate and starts of requests"
        if len(requests.ttft_s) and load.rate_rps is None and benchmark.tool == VLLM:
            lacks += f" ({NO_START_TIMES})"
        raise DataError(f"{where}: the measured load cannot be simulated: {lacks} not stated")
    workload: dict[str, Any] = {"arrivals": arrivals, "drain": True}
    if known:
        outputs = np.maximum(requests.output_tokens, 1)
        if (requests.output_tokens < 1).any():
            notes.append(f"{int((requests.output_tokens < 1).sum())} requests without output count as one token")
        write_text(trace, _csv(requests.start_s if starts else np.zeros(len(outputs)), requests.prompt_tokens, outputs))
        workload["trace"] = {"path": str(trace.resolve())}
        return workload, notes
    if load.prompt_tokens is None or load.output_tokens is None:
        raise DataError(f"{where}: the measured load cannot be simulated: lengths of prompts and outputs not stated")
    if not spread_is_known(benchmark):
        if own_lengths is not None:
            return workload | {"lengths": dict(own_lengths)}, [*notes, "lengths spread as those of the experiment"]
        notes.append(
            f"{MEAN_LENGTHS}; TTFT and TPOT in a closed loop depend on it (vllm bench serve --save-detailed states "
            "it, or give the experiment lengths of this mean)"
        )
    lengths = workload["lengths"] = _lengths(load.prompt_tokens, load.output_tokens)
    if lengths["distribution"] == "lognormal" and most_tokens is not None:
        longest = min(most_tokens // 2, math.ceil(load.output_tokens.mean + 6 * (load.output_tokens.sd or 0.0)))
        workload["limits"] = {"max_prompt_tokens": most_tokens - longest, "max_output_tokens": longest}
    return workload, notes


def spread_is_known(benchmark: Benchmark) -> bool:
    """Return whether the file states how the lengths spread."""
    known = bool(len(benchmark.requests.prompt_tokens) and len(benchmark.requests.output_tokens))
    lengths = (benchmark.load.prompt_tokens, benchmark.load.output_tokens)
    return known or all(one is not None and one.sd is not None for one in lengths)


def are_alike(benchmark: Benchmark, prompt_tokens: float, output_tokens: float) -> bool:
    """Return whether these mean lengths are those of the benchmark."""
    both = zip(
        (benchmark.load.prompt_tokens, benchmark.load.output_tokens), (prompt_tokens, output_tokens), strict=True
    )
    return all(one is not None and not _differ(one.mean, own) for one, own in both)


def differences(
    benchmark: Benchmark, arrivals: Mapping[str, Any], prompt_tokens: float | None, output_tokens: float | None
) -> list[str]:
    """Return in words where a simulated load differs from the measured one.

    Parameters
    ----------
    arrivals
        The section ``workload.arrivals``.
    prompt_tokens, output_tokens
        Mean lengths of the simulated load; None: not known.
    """
    load, found = benchmark.load, []
    process, concurrency, rate = (arrivals.get(key) for key in ("process", "concurrency", "rate"))
    if load.is_open:
        if rate is None and process != "trace":
            found.append(f"measured at {load.rate_rps:g} requests/s, simulated as {_described(arrivals)}")
        elif rate is not None and _differ(load.rate_rps, units.parse(rate, "rate")):
            found.append(f"measured at {load.rate_rps:g} requests/s, simulated at {rate}")
    elif load.concurrency is not None and concurrency != load.concurrency:
        found.append(f"measured with concurrency {load.concurrency}, simulated as {_described(arrivals)}")
    for what, measured, simulated in (
        ("prompt", load.prompt_tokens, prompt_tokens),
        ("output", load.output_tokens, output_tokens),
    ):
        if measured is not None and simulated is not None and _differ(measured.mean, simulated):
            found.append(f"mean {what} of {measured.mean:.0f} tokens measured, {simulated:.0f} simulated")
    return found


def _at_rate(rate_rps: float, burstiness: float | None, count: int) -> dict[str, Any]:
    if math.isinf(rate_rps):
        return {"process": "closed_loop", "concurrency": count, "num_requests": count}
    if burstiness is not None and math.isinf(burstiness):
        return {"process": "constant", "rate": rate_rps, "num_requests": count}
    if burstiness is not None and burstiness != 1.0:
        return {"process": "gamma", "rate": rate_rps, "burstiness": burstiness, "num_requests": count}
    return {"process": "poisson", "rate": rate_rps, "num_requests": count}


def _lengths(prompt: Lengths, output: Lengths) -> dict[str, Any]:
    """Return a distribution of these means: none where there is no spread, uniform as benchmarks draw, else lognormal.

    Tools draw random lengths evenly; a spread that no even distribution of positive lengths has is log-normal.
    """
    sides = {"prompt": prompt, "output": output}
    halves = {side: math.sqrt(3) * (lengths.sd or 0.0) for side, lengths in sides.items()}
    if all(half < 0.5 for half in halves.values()):
        return {"distribution": "fixed"} | {f"{side}_tokens": max(1, round(one.mean)) for side, one in sides.items()}
    if all(halves[side] <= one.mean - 1 for side, one in sides.items()):
        bounds = {side: (one.mean - halves[side], one.mean + halves[side]) for side, one in sides.items()}
        return {"distribution": "uniform"} | {
            f"{side}_{end}": max(1, round(bound))
            for side, both in bounds.items()
            for end, bound in zip(("min", "max"), both, strict=True)
        }
    means = {f"{side}_mean": one.mean for side, one in sides.items()}
    return (
        {"distribution": "lognormal"} | means | {f"{side}_cv": (one.sd or 0) / one.mean for side, one in sides.items()}
    )


def _csv(starts: Any, prompts: Any, outputs: Any) -> str:
    rows = (
        f"{start:.9f},{prompt:.0f},{output:.0f}" for start, prompt, output in zip(starts, prompts, outputs, strict=True)
    )
    return "\n".join(("arrival_s,prompt_tokens,output_tokens", *rows)) + "\n"


def _described(arrivals: Mapping[str, Any]) -> str:
    details = [f"{key} {arrivals[key]}" for key in ("concurrency", "rate") if arrivals.get(key) is not None]
    return ", ".join((str(arrivals.get("process") or "trace").replace("_", " "), *details))


def _differ(measured: float | None, simulated: float) -> bool:
    return measured is not None and abs(simulated / measured - 1) > SAME if measured else False
