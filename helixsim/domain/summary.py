"""The figures of one simulated system as a typed tree, and as its document in ``summary.json``.

Figures have nine significant digits, and are None where undefined, so that a summary survives writing and reading.
Times are in seconds. The document has the keys and units of ``vllm bench serve``, and its own under ``helixsim``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, TypeVar

from helixsim.domain.autoscaling_figures import AutoscalingFigures, ScaledPoolFigures, SpotFigures
from helixsim.domain.clients import ClientStats
from helixsim.domain.fault_figures import FaultEvent, FaultFigures
from helixsim.domain.faults import CopyStats
from helixsim.domain.figures import (
    ClassFigures,
    ClusterFigures,
    CostFigures,
    DisaggregationFigures,
    Figure,
    FlowFigures,
    GpuShare,
    IntegrityFigures,
    Latency,
    Limits,
    LoadFigures,
    ObjectiveFigures,
    PoolFigures,
    RankingFigures,
    SettingFigures,
    ThroughputFigures,
    WindowFigures,
)
from helixsim.domain.offload_figures import OffloadFigures, TierFigures
from helixsim.domain.request import FeedMode
from helixsim.errors import DataError
from helixsim.jsonio import json_values, significant

Part = TypeVar("Part")

STATISTICS = ("mean", "median", "std", "p50", "p75", "p90", "p95", "p99")
"""Statistics of each latency."""

LATENCIES = ("ttft", "tpot", "itl", "e2el")

_OF_CLASSES = ("ttft", "tpot", "e2el")
"""Latencies of classes; gaps between tokens are pooled over all requests."""


@dataclass(frozen=True, slots=True)
class Summary:
    """All figures of one simulated system."""

    window: WindowFigures
    load: LoadFigures
    throughput: ThroughputFigures
    ttft: Latency
    tpot: Latency
    itl: Latency
    e2el: Latency
    tpot_excluded: int
    """Requests with one output token, which have no TPOT."""
    flow: FlowFigures
    cluster: ClusterFigures
    cost: CostFigures
    integrity: IntegrityFigures
    classes: Mapping[str, ClassFigures] = field(default_factory=dict)
    """Requests by class, where they have classes."""
    objectives: Mapping[str, ObjectiveFigures] = field(default_factory=dict)
    """By name, ``TTFT`` or with its class ``chat TTFT``; empty without objectives and for older versions."""
    setting: SettingFigures | None = None
    """Of which kind of system and load these are the figures; None in documents of older versions."""
    itl_max_s: Figure = None
    """Largest time between two tokens of a request in the window [s]; None without any, and in older documents."""
    ranking: RankingFigures | None = None
    """What the system is ranked by; None in documents of older versions."""
    disaggregation: DisaggregationFigures | None = None
    """None: all nodes serve both phases."""
    kv_offloading: OffloadFigures | None = None
    """None: KV blocks are on GPUs alone."""
    faults: FaultFigures | None = None
    """None: no node can fail."""
    autoscaling: AutoscalingFigures | None = None
    """None: all replicas serve all the time."""

    def vllm_keys(self) -> dict[str, Any]:
        """Return the figures of ``vllm bench serve`` under its keys; latencies in ms."""
        done = self.throughput
        return {
            "duration": self.window.duration_s,
            "completed": done.completed,
            "failed": done.failed,
            "total_input_tokens": done.prompt_tokens,
            "total_output_tokens": done.output_tokens,
            "request_throughput": done.requests_per_s,
            "request_goodput": done.goodput_per_s,
            "output_throughput": done.output_tokens_per_s,
            "total_token_throughput": done.total_tokens_per_s,
            **_latency_keys(self, LATENCIES),
        }

    def own_keys(self) -> dict[str, Any]:
        """Return the other figures under their keys in ``summary.json``."""
        load, attained = self.load, self.throughput.attainment_interval
        return {
            "feed": load.feed.value,
            "seed": load.seed,
            "window": {
                "start_s": self.window.start_s, "end_s": self.window.end_s, "warmup_s": self.window.warmup_s,
            },
            "steady": load.stationarity,
            "saturation": load.saturation,
            "offered_rate": load.offered_per_s,
            "arrival_rate": load.arrived_per_s,
            "slo_attainment": self.throughput.slo_attainment,
            **({} if self.throughput.undecided is None else {"slo_undecided": self.throughput.undecided}),
            **({"objectives": {name: asdict(one) for name, one in self.objectives.items()}} if self.objectives else {}),
            "prefix_hit_tokens": self.throughput.prefix_hit_tokens,
            "prefix_hit_rate": self.throughput.prefix_hit_rate,
            "tpot_excluded": self.tpot_excluded,
            "max_itl_ms": milliseconds(self.itl_max_s),
            **({"classes": {name: _class_keys(one) for name, one in self.classes.items()}} if self.classes else {}),
            "confidence": {
                **{name: list(limits) for name, limits in self.confidence().items()},
                **({} if attained is None else {"slo_attainment": list(attained)}),
            },
            **_keys(self.flow),
            **_keys(self.cluster),
            **_keys(self.cost),
            **_keys(self.integrity),
            **({} if self.setting is None else {"setting": _setting_keys(self.setting)}),
            **({} if self.ranking is None else {"ranking": json_values(asdict(self.ranking))}),
            **({} if self.disaggregation is None else {"disaggregation": asdict(self.disaggregation)}),
            **({} if self.kv_offloading is None else {"kv_offloading": asdict(self.kv_offloading)}),
            **({} if self.faults is None else {"faults": _without(asdict(self.faults), "copies")}),
            **({} if self.autoscaling is None else {"autoscaling": _autoscaling_keys(self.autoscaling)}),
        }  # fmt: skip

    def confidence(self) -> dict[str, Limits]:
        """Return the known intervals, with the keys and units of ``vllm_keys``."""
        found: dict[str, Limits] = {}
        if self.throughput.output_interval is not None:
            found["output_throughput"] = self.throughput.output_interval
        for name in LATENCIES:
            limits = getattr(self, name).mean_interval_s
            if limits is not None:
                found[f"mean_{name}_ms"] = Limits(*(significant(1e3 * limit) for limit in limits))
        return found

    def to_json(self) -> dict[str, Any]:
        """Return the document of the system in ``summary.json``, without ratios to the baseline."""
        return {**self.vllm_keys(), "helixsim": self.own_keys()}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Summary:
        """Return the summary in a document of ``to_json``; ratios to a baseline are ignored.

        Optional figures are None if they are missing, as in documents of older versions.

        Raises
        ------
        DataError
            If the document is invalid.
        """
        try:
            return _read(document, document["helixsim"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"no summary of a system: {type(error).__name__}: {error}") from None


def milliseconds(value_s: Figure) -> Figure:
    """Return seconds as milliseconds with the same significant digits."""
    return None if value_s is None else significant(1e3 * value_s)


def seconds(value_ms: Figure) -> Figure:
    """Return milliseconds as seconds with the same significant digits."""
    return None if value_ms is None else significant(value_ms / 1e3)


def rounded(summary: Summary) -> Summary:
    """Return a summary with nine significant digits, and None for NaN and infinite values."""
    parts = {part.name: getattr(summary, part.name) for part in fields(summary)}
    return Summary(**{name: _rounded(part) for name, part in parts.items()})


def _rounded(part: Any) -> Any:
    """Return JSON values in their original types."""
    if hasattr(part, "__dataclass_fields__"):
        return type(part)(**{one.name: _rounded(getattr(part, one.name)) for one in fields(part)})
    if isinstance(part, Mapping):
        return {name: _rounded(one) for name, one in part.items()}
    plain = json_values(part)
    return Limits(*plain) if isinstance(part, Limits) else tuple(plain) if isinstance(part, tuple) else plain


def _latency_keys(part: Any, names: Sequence[str]) -> dict[str, Figure]:
    """Return the statistics of latencies of a part under the keys of ``vllm bench serve`` [ms]."""
    return {
        f"{statistic}_{name}_ms": milliseconds(getattr(getattr(part, name), f"{statistic}_s"))
        for name in names
        for statistic in STATISTICS
    }


def _class_keys(one: ClassFigures) -> dict[str, Any]:
    """Return the figures of a class under the keys of the whole."""
    return {
        "completed": one.completed,
        "failed": one.failed,
        "request_throughput": one.requests_per_s,
        "request_goodput": one.goodput_per_s,
        "slo_attainment": one.slo_attainment,
        "output_throughput": one.output_tokens_per_s,
        **_latency_keys(one, _OF_CLASSES),
    }


def _read_class(one: Mapping[str, Any]) -> ClassFigures:
    return ClassFigures(
        completed=one["completed"],
        failed=one["failed"],
        requests_per_s=one["request_throughput"],
        goodput_per_s=one["request_goodput"],
        slo_attainment=one["slo_attainment"],
        output_tokens_per_s=one.get("output_throughput"),
        **{name: _latency(one, name) for name in _OF_CLASSES},
    )


def _setting_keys(setting: SettingFigures) -> dict[str, Any]:
    return {**asdict(setting), **{name: list(getattr(setting, name)) for name in ("timings", "unsupported")},
            "nodes": [asdict(one) for one in setting.nodes]}  # fmt: skip


def _read_setting(document: Mapping[str, Any] | None) -> SettingFigures | None:
    if document is None:
        return None
    lists = {name: tuple(document[name]) for name in ("timings", "unsupported")}
    return SettingFigures(**{**document, **lists, "nodes": tuple(GpuShare(**one) for one in document["nodes"])})


def _read_ranking(document: Mapping[str, Any] | None) -> RankingFigures | None:
    if document is None:
        return None
    lists = ("good", "decided", "log_latency", "output_tokens")
    return RankingFigures(**{**document, **{name: tuple(document[name]) for name in lists}})


def _read_disaggregation(document: Mapping[str, Any] | None) -> DisaggregationFigures | None:
    if document is None:
        return None
    pools = {role: PoolFigures(**one) for role, one in document["pools"].items()}
    return DisaggregationFigures(**{**document, "pools": pools})


def _read_offloading(document: Mapping[str, Any] | None) -> OffloadFigures | None:
    if document is None:
        return None
    tiers = {name: TierFigures(**one) for name, one in document["tiers"].items()}
    return OffloadFigures(**{**document, "tiers": tiers})


def _read_faults(document: Mapping[str, Any] | None) -> FaultFigures | None:
    if document is None:
        return None
    clients, copies = document.get("clients"), document.get("copies")
    own = {
        "events": tuple(FaultEvent(**one) for one in document["events"]),
        "clients": None if clients is None else ClientStats(**clients),
        "copies": None if copies is None else CopyStats(**copies),
    }
    return FaultFigures(**{**document, **own})


def _autoscaling_keys(figures: AutoscalingFigures) -> dict[str, Any]:
    """Return the document of the pools, of which those that cannot fail have no losses."""
    keys = asdict(figures)
    return {**keys, "pools": {name: _without(pool, "lost") for name, pool in keys["pools"].items()}}


def _without(keys: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a document without one key if that has no value."""
    return {key: value for key, value in keys.items() if key != name or value is not None}


def _read_autoscaling(document: Mapping[str, Any] | None) -> AutoscalingFigures | None:
    if document is None:
        return None
    pools = {
        name: ScaledPoolFigures(**{**one, "spot": None if not one.get("spot") else SpotFigures(**one["spot"])})
        for name, one in document["pools"].items()
    }
    return AutoscalingFigures(**{**document, "pools": pools})


def _latency(keys: Mapping[str, Any], name: str, interval: Limits | None = None) -> Latency:
    """Return the latency whose statistics are among ``keys`` [ms]; ``interval`` of its mean [ms]."""
    return Latency(
        **{f"{statistic}_s": seconds(keys[f"{statistic}_{name}_ms"]) for statistic in STATISTICS},
        mean_interval_s=None if interval is None else Limits(*(significant(limit / 1e3) for limit in interval)),
    )


def _read(top: Mapping[str, Any], own: Mapping[str, Any]) -> Summary:
    limits = {name: Limits(*values) for name, values in own["confidence"].items()}
    window = own["window"]
    return Summary(
        window=WindowFigures(window["start_s"], window["end_s"], window["warmup_s"], top["duration"]),
        load=LoadFigures(
            feed=FeedMode(own["feed"]),
            seed=own["seed"],
            stationarity=own["steady"],
            saturation=own["saturation"],
            offered_per_s=own.get("offered_rate"),
            arrived_per_s=own.get("arrival_rate"),
        ),
        throughput=ThroughputFigures(
            completed=top["completed"],
            failed=top["failed"],
            prompt_tokens=top["total_input_tokens"],
            output_tokens=top["total_output_tokens"],
            requests_per_s=top["request_throughput"],
            goodput_per_s=top["request_goodput"],
            output_tokens_per_s=top["output_throughput"],
            total_tokens_per_s=top["total_token_throughput"],
            slo_attainment=own.get("slo_attainment"),
            output_interval=limits.get("output_throughput"),
            prefix_hit_tokens=own.get("prefix_hit_tokens"),
            prefix_hit_rate=own.get("prefix_hit_rate"),
            attainment_interval=limits.get("slo_attainment"),
            undecided=own.get("slo_undecided"),
        ),
        **{name: _latency(top, name, limits.get(f"mean_{name}_ms")) for name in LATENCIES},
        tpot_excluded=own["tpot_excluded"],
        flow=_part(FlowFigures, own),
        cluster=_part(ClusterFigures, own),
        cost=_part(CostFigures, own),
        integrity=_part(IntegrityFigures, own),
        classes={name: _read_class(one) for name, one in own.get("classes", {}).items()},
        objectives={name: ObjectiveFigures(**one) for name, one in own.get("objectives", {}).items()},
        setting=_read_setting(own.get("setting")),
        itl_max_s=seconds(own.get("max_itl_ms")),
        ranking=_read_ranking(own.get("ranking")),
        disaggregation=_read_disaggregation(own.get("disaggregation")),
        kv_offloading=_read_offloading(own.get("kv_offloading")),
        faults=_read_faults(own.get("faults")),
        autoscaling=_read_autoscaling(own.get("autoscaling")),
    )


_NAMES = {
    "attainment": "flow_attainment",
    "kv_tokens": "kv_tokens_per_node",
    "usd_per_hour": "cost_usd_per_hour",
    "usd_per_mtok": "cost_usd_per_mtok",
    "usd_per_total_mtok": "cost_usd_per_total_mtok",
    "simulated_s": "sim_seconds",
}
"""Keys in the document of fields with a different name here."""

_FORMER = {
    "kv_limited_tokens_per_s": "operating_tokens_per_s",
    "kv_limited_attainment": "operating_attainment",
    "bottleneck": "what_binds",
}
"""Keys in documents of an older version."""


def _keys(part: Any) -> dict[str, Any]:
    """Return the fields of a part under their keys in the document."""
    return {_NAMES.get(one.name, one.name): json_values(getattr(part, one.name)) for one in fields(part)}


def _part(kind: type[Part], own: Mapping[str, Any]) -> Part:
    """Return a part from the document; optional figures may be missing."""
    read = {}
    for one in fields(kind):  # type: ignore[arg-type]
        key = _NAMES.get(one.name, one.name)
        if key not in own and _FORMER.get(key) in own:
            key = _FORMER[key]
        is_optional = one.type == "Figure" or one.default is not MISSING
        value = own.get(key, None if one.default is MISSING else one.default) if is_optional else own[key]
        read[one.name] = tuple(value) if isinstance(value, list) else value
    return kind(**read)
