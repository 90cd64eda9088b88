"""From the compute of all GPUs to the simulated throughput: what placement, network, memory and load take away."""

from __future__ import annotations

from dataclasses import dataclass

from helixsim.domain.request import FeedMode
from helixsim.results.run import Run
from helixsim.units import number


@dataclass(frozen=True, slots=True)
class Step:
    """A bar from the value before to this one [prompt + output tokens/s]; ``left`` and ``width`` in % of the largest.

    ``kind``: ``total`` (from zero), ``loss`` or ``gain``.
    """

    label: str
    about: str
    text: str
    change: str
    kind: str
    left: float
    width: float


def waterfall(run: Run) -> tuple[Step, ...]:
    """Return the steps of a system that are known; the last one is what was simulated."""
    flow, load = run.summary.flow, run.summary.load
    found: list[tuple[str, str, float | None]] = [
        ("compute bound", "no placement of these GPUs has a larger max-flow", flow.upper_bound_tokens_per_s),
        (
            "placement without network",
            "max-flow estimate of this placement over links of unlimited speed",
            run.placement_document.get("max_flow_without_network_tokens_per_s"),
        ),
        ("with network", "max-flow estimate over the links as they are", flow.max_flow_tokens_per_s),
        (
            "with KV memory and latency",
            "KV-limited estimate: the requests in flight that fit, each over its round trip; its batches may be larger "
            "than the max-flow estimate assumes",
            flow.kv_limited_tokens_per_s,
        ),
    ]
    if load.feed is FeedMode.OPEN and load.arrived_per_s is not None and flow.max_flow_requests_per_s:
        per_request = flow.max_flow_tokens_per_s / flow.max_flow_requests_per_s
        found.append(
            ("offered load", "requests that arrived, at the mean length of the workload",
             load.arrived_per_s * per_request)
        )  # fmt: skip
    found.append(
        ("simulated", "delivered in the measurement window", run.summary.throughput.total_tokens_per_s)
    )  # fmt: skip
    known = [(label, about, value) for label, about, value in found if value is not None]
    largest = max((value for _, _, value in known), default=1.0) or 1.0
    steps = []
    former: float | None = None
    for label, about, value in known:
        is_total = former is None or label == "simulated"
        low, high = (0.0, value) if former is None or is_total else sorted((former, value))
        change = "" if not former else f"{100 * (value / former - 1):+.0f} %".replace("-", "−")
        kind = "total" if is_total or former is None else "loss" if value < former else "gain"
        steps.append(
            Step(label, about, number(value), change, kind, 100 * low / largest, 100 * (high - low) / largest)
        )  # fmt: skip
        former = value
    return tuple(steps)
