"""The rows of the comparison of systems, as text, shared by the terminal table and the HTML report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from helixsim.metrics.steady import NOT_STEADY, STEADY

Summary = Mapping[str, Any]
Cell = Callable[[Summary], str]
MISSING = "–"
_FEEDS = {"open": "at a rate", "closed_loop": "as others end", "saturate": "without end"}


@dataclass(frozen=True, slots=True)
class Row:
    """One quantity of all systems; the label carries the unit."""

    label: str
    cells: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Section:
    """Rows that belong together."""

    title: str
    rows: tuple[Row, ...]


def comparison_sections(document: Mapping[str, Any]) -> list[Section]:
    """Return the rows of ``summary.json``; cells in the order of its systems."""
    summaries = list(document["systems"].values())
    kinds = list(dict.fromkeys(kind for summary in summaries for kind in summary["helixsim"]["utilisation"]))
    with_slo = any(value is not None for value in document["slo"].values())
    layout: list[tuple[str, list[tuple[str, Cell]]]] = [
        (
            "Throughput",
            [
                ("output tokens/s", _output_throughput),
                (f"relative to {document['baseline']}", _ratio),
                ("  95 % range of that", _ratio_range),
                ("prompt + output tokens/s", _at("total_token_throughput")),
                ("requests finished per s", _at("request_throughput")),
                *(_SLO_ROWS if with_slo else ()),
            ],
        ),
        (
            "Latency",
            [
                *((f"TTFT {q}, s", _at(f"{q}_ttft_ms", seconds)) for q in ("p50", "p95", "p99")),
                *((f"TPOT {q}, ms", _at(f"{q}_tpot_ms")) for q in ("p50", "p95")),
                *((f"ITL {q}, ms", _at(f"{q}_itl_ms")) for q in ("p50", "p99")),
            ],
        ),
        (
            "Load",
            [
                ("requests come", _own("feed", _FEEDS.__getitem__)),
                ("requests arrived per s", _own("arrival_rate")),
                ("does it keep up?", _own("saturation", str)),
                ("steady in the window?", _own("steady", _steady)),
                ("rejected requests", _own("rejected", str)),
                ("preemptions", _own("preemptions", str)),
            ],
        ),
        (
            "Cluster",
            [
                ("flow bound, tokens/s", _own("max_flow_tokens_per_s")),
                ("flow bound reached, %", _own("flow_attainment", percent)),
                ("operating point, tokens/s", _own("operating_tokens_per_s")),
                ("operating point reached, %", _own("operating_attainment", percent)),
                ("nodes per request, mean", _own("measured_mean_hops")),
                *((f"{kind} computing, % of time", _kind_utilisation(kind)) for kind in kinds),
                ("KV memory in use, mean %", _own("kv_mean", percent)),
                ("KV memory, peak of a node %", _own("kv_peak", percent)),
            ],
        ),
        (
            "Cost",
            [
                ("$ per million output tokens", _own("cost_usd_per_mtok")),
                ("Wh per million output tokens", _own("energy_wh_per_mtok")),
            ],
        ),
    ]
    return [
        Section(title, tuple(Row(label, tuple(cell(summary) for summary in summaries)) for label, cell in rows))
        for title, rows in layout
    ]


def number(value: float | None) -> str:
    """Return three significant digits, all digits before the point; a dash for None."""
    if value is None:
        return MISSING
    if abs(value) >= 100:
        return f"{value:,.0f}".replace(",", " ")
    digits = f"{value:#.3g}"
    return f"{float(digits):.6f}".rstrip("0").rstrip(".") if "e" in digits else digits.rstrip(".")


def percent(share: float | None) -> str:
    """Return a share 0..1 in percent, without the sign."""
    return MISSING if share is None else f"{100 * share:.1f}" if share < 0.1 else f"{100 * share:.0f}"


def seconds(value_ms: float | None) -> str:
    """Return milliseconds as seconds."""
    return number(None if value_ms is None else value_ms / 1000)


def window_sentence(document: Mapping[str, Any]) -> str:
    """Return when the systems were measured, in words."""
    windows: dict[tuple[float, float, float], list[str]] = {}
    for name, summary in document["systems"].items():
        windows.setdefault(tuple(summary["helixsim"]["window"].values()), []).append(name)
    parts = []
    for (start_s, end_s, warmup_s), names in windows.items():
        warmup = f"the first {warmup_s:g} s are warm-up and left out" if warmup_s else "no warm-up"
        whose = f"{', '.join(names)}: " if len(windows) > 1 else ""
        parts.append(f"{whose}{start_s:g} s to {end_s:g} s of simulated time ({warmup})")
    return f"Measured from {'; '.join(parts)}." if len(windows) == 1 else f"Measured windows: {'; '.join(parts)}."


def notes(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (system, sentence) for what binds each system and for whatever casts doubt on its numbers."""
    found = []
    for name, summary in document["systems"].items():
        own = summary["helixsim"]
        found.append((name, own["what_binds"]))
        if own["steady"] != "steady":
            advice = "" if own["saturation"] == "OVERLOADED" else " A longer warm-up or window may help."
            found.append((name, f"{own['steady'][0].upper()}{own['steady'][1:]}.{advice}"))
        if own["saturation"] == "OVERLOADED":
            found.append(
                (name, "Overloaded: requests arrive faster than they finish, so latencies grow with the window.")
            )
        if own["saturation"] == "BACKLOGGED" and own["feed"] != "saturate":
            found.append((name, "Backlogged: more than a tenth of the requests in the system wait for admission."))
        if rejected := own["rejected"]:
            found.append(
                (
                    name,
                    f"{rejected} requests were rejected: longer than the model's context, or than any route can hold.",
                )
            )
        found.extend((name, f"Invariant broken: {broken}") for broken in own["invariants_broken"])
    return found


LEGEND = (
    "TTFT: time to first token. TPOT: mean time per output token after the first, per request. ITL: gap between two "
    "tokens. Flow bound: the planner's max-flow of prompt + output tokens/s; it assumes KV memory filled to "
    "capacity.kv_occupancy, so fuller batches can exceed it. Operating point: what the placement should serve under "
    "saturation, as KV memory caps its requests and each step takes its round trip. ± and ranges: 95 % confidence."
)


def _at(key: str, text: Callable[[Any], str] = number) -> Cell:
    """Return a cell that shows a value named as in ``vllm bench serve``."""
    return lambda summary: text(summary[key])


def _own(key: str, text: Callable[[Any], str] = number) -> Cell:
    """Return a cell that shows a value of helixsim's own."""
    return lambda summary: text(summary["helixsim"].get(key))  # runs of older versions may lack it


def _kind_utilisation(kind: str) -> Cell:
    return lambda summary: percent(summary["helixsim"]["utilisation"].get(kind))


def _output_throughput(summary: Summary) -> str:
    limits = summary["helixsim"]["confidence"].get("output_throughput")
    value = number(summary["output_throughput"])
    if limits is None:
        return value
    decimals = len(value.partition(".")[2])
    return value + spread(limits[0], limits[1], lambda figure: f"{figure:.{decimals}f}")


def spread(low: float | None, high: float | None, text: Callable[[float], str]) -> str:
    """Return `` ± half the interval``, or its limits where the lower one has been cut at zero."""
    if low is None or high is None:
        return ""
    return f" ± {text((high - low) / 2)}" if low > 0 or high <= 0 else f" ({text(low)}–{text(high)})"


def _ratio(summary: Summary) -> str:
    ratio = summary["helixsim"]["ratio_to_baseline"]["output_throughput"]
    return MISSING if ratio is None else f"{ratio:.2f}×"


def _ratio_range(summary: Summary) -> str:
    limits = summary["helixsim"]["ratio_to_baseline_interval"].get("output_throughput")
    return MISSING if limits is None or limits[0] == limits[1] else f"{limits[0]:.2f}–{limits[1]:.2f}"


def _steady(verdict: str) -> str:
    return {STEADY: "yes", NOT_STEADY: "NO"}.get(verdict.split(":", maxsplit=1)[0], "unknown")


_SLO_ROWS = (
    ("goodput, requests/s within SLO", _at("request_goodput")),
    ("requests within SLO, %", _own("slo_attainment", percent)),
)
