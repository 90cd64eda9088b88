"""Made-up measured points with their predictions."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Figures:
    ttft_ms: float
    tpot_ms: float
    output_tokens_per_s: float

    def times(self, factor: float) -> Figures:
        return Figures(self.ttft_ms * factor, self.tpot_ms * factor, self.output_tokens_per_s / factor)


@dataclass(frozen=True)
class Point:
    id: str = "p"
    gpu: str = "h100"
    tensor_parallel: int = 2
    data_parallel: int = 1
    engine: str = "vllm-1"
    engine_version: str = "0.19.0"
    model: str = "llama-3.1-70b"
    weights: str | None = "fp8"
    prompt_tokens: int = 1024
    output_tokens: int = 256
    concurrency: int = 16
    ttft_ms: float = 200.0
    tpot_ms: float = 20.0
    output_tokens_per_s: float = 750.0


@dataclass(frozen=True)
class Result:
    point: Point = field(default_factory=Point)
    analytic: Figures | None = None
    operators: Figures | None = None
    static: Figures | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Missing:
    id: str
    reason: str


def result(
    factor: float | None = 1.1, *, operators: float | None = None, static: float | None = None, **point: object
) -> Result:
    """A point whose latencies are predicted ``factor`` times too long; None: no prediction."""
    measured = Point(**point)  # type: ignore[arg-type]
    figures = Figures(measured.ttft_ms, measured.tpot_ms, measured.output_tokens_per_s)
    found = [None if one is None else figures.times(one) for one in (factor, operators, static)]
    return Result(measured, *found, reason="no memory for one request" if factor is None else None)


def many(count: int, seed: int = 1) -> list[Result]:
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
                output_tokens_per_s=math.exp(rng.normal(7, 1)),
            )
        )
    return found
