"""Made-up measured points with their predictions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from helixsim.accuracy.points import MeasuredPoint, throughput
from helixsim.accuracy.run import PointResult, Prediction

POINT: dict[str, Any] = {
    "id": "p", "source": "made up", "gpu": "h100", "tensor_parallel": 2, "data_parallel": 1, "expert_parallel": 1,
    "engine": "vllm-1", "engine_version": "0.19.0", "model": "llama-3.1-70b", "weights": "fp8",
    "prompt_tokens": 1024, "output_tokens": 256, "spread": 1.0, "concurrency": 16, "ttft_ms": 200.0, "tpot_ms": 20.0,
}  # fmt: skip


def result(
    factor: float | None = 1.1, *, operators: float | None = None, static: float | None = None, **point: Any
) -> PointResult:
    """A point whose latencies are predicted ``factor`` times too long; None: no prediction."""
    measured = MeasuredPoint(**POINT | point)
    found = []
    for times in (factor, operators, static):
        means = (0.0, 0.0) if times is None else (measured.ttft_ms * times, measured.tpot_ms * times)
        found.append(None if times is None else Prediction(*means, throughput(measured, *means)))
    reasons = (("analytic", "no memory for one request"),) if factor is None else ()
    return PointResult(measured, *found, reasons=reasons)


def many(count: int, seed: int = 1) -> list[PointResult]:
    """Points of several GPUs, engines, models and loads with random errors."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        errors = np.exp(rng.normal(0.02, 0.15, 3)).tolist()
        found.append(
            result(
                errors[0],
                operators=errors[1] if rng.random() < 0.7 else None,
                static=errors[2],
                id=f"p{number}",
                gpu=str(rng.choice(["h100", "b200", "l40s"])),
                engine=str(rng.choice(["vllm-1", "sglang", "trtllm"])),
                model=str(rng.choice(["llama-3.1-70b", "gpt-oss-120b"])),
                concurrency=int(rng.choice([1, 16, 64, 256])),
                tpot_ms=math.exp(rng.normal(3, 1)),
                ttft_ms=math.exp(rng.normal(6, 1)),
            )
        )
    return found
