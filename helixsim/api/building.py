"""Parts of an experiment that are built in Python: cluster, load and service-level objective."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

Lengths = str | tuple[int, int] | Mapping[str, Any]
"""Prompt and output lengths: the name of a distribution, two numbers of tokens, or a mapping with its options."""

Data = dict[str, Any]


@runtime_checkable
class Part(Protocol):
    """A part of an experiment: ``Cluster``, ``Slo``."""

    def data(self) -> Data:
        """Return the part as plain data, with the keys of exp.yaml."""
        ...


@dataclass(frozen=True)
class Cluster:
    """The machines and the network between them.

    Parameters
    ----------
    nodes
        GPU -> number of nodes, or a list of mappings with the keys of ``cluster.nodes`` (``gpu count gpus region``).
    link
        Links inside a region: ``"8 Gbit/s, 1 ms"`` (bandwidth, latency), or the name of a link profile.
    between
        Links between regions, in the same form; needed if there are several.
    more
        Further keys of the section ``cluster``, such as ``coordinator`` and ``down``.
    """

    nodes: Mapping[str, int] | Sequence[Mapping[str, Any]]
    link: str
    between: str | None = None
    more: Mapping[str, Any] | None = None

    def data(self) -> Data:
        """Return the section ``cluster`` as plain data."""
        if isinstance(self.nodes, Mapping):
            nodes: list[Data] = [{"gpu": gpu, "count": count} for gpu, count in self.nodes.items()]
        else:
            nodes = [dict(node) for node in self.nodes]
        network: Data = {"intra_region": _link(self.link)}
        if self.between is not None:
            network["inter_region"] = _link(self.between)
        return {"nodes": nodes, "network": network, **(self.more or {})}


def poisson(rate: float | str, lengths: Lengths = "azure-conversation", **more: Any) -> Data:
    """Return a load of independent arrivals, ``rate`` of them per second on average.

    Parameters
    ----------
    more
        Further keys of ``workload``, such as ``limits`` and ``scale``.
    """
    return _load({"process": "poisson", "rate": rate}, lengths, more)


def gamma(rate: float | str, burstiness: float, lengths: Lengths = "azure-conversation", **more: Any) -> Data:
    """Return a load whose gaps are gamma-distributed: ``burstiness`` 1 is Poisson, below 1 is burstier."""
    return _load({"process": "gamma", "rate": rate, "burstiness": burstiness}, lengths, more)


def constant(rate: float | str, lengths: Lengths = "azure-conversation", **more: Any) -> Data:
    """Return a load of equally spaced arrivals, ``rate`` of them per second."""
    return _load({"process": "constant", "rate": rate}, lengths, more)


def closed_loop(
    concurrency: int, lengths: Lengths = "azure-conversation", *, num_requests: int | None = None, **more: Any
) -> Data:
    """Return a closed loop of ``concurrency`` requests in the system; ``num_requests`` ends it, as benchmarks do."""
    arrivals = {"process": "closed_loop", "concurrency": concurrency}
    return _load(arrivals if num_requests is None else {**arrivals, "num_requests": num_requests}, lengths, more)


def saturate(lengths: Lengths = "azure-conversation", **more: Any) -> Data:
    """Return a load of which the next request arrives as soon as it can be admitted."""
    return _load({"process": "saturate"}, lengths, more)


def trace(path: str | Path, *, rate: float | str | None = None, **options: Any) -> Data:
    """Return the load recorded in a file; ``rate`` stretches it.

    Parameters
    ----------
    options
        Further keys of ``workload.trace``: ``format start duration unit columns where``.
    """
    arrivals: Data = {"process": "trace"} if rate is None else {"process": "trace", "rate": rate}
    return {"trace": {"path": str(path), **options}, "arrivals": arrivals}


@dataclass(frozen=True)
class Slo:
    """A service-level objective: a request is good if it meets all of its limits.

    Parameters
    ----------
    ttft
        Longest time to first token, such as ``"500 ms"``.
    tpot
        Longest mean time per output token after the first.
    e2el
        Longest end-to-end latency.
    classes
        Class of requests -> its objective, in place of this one.
    """

    ttft: str | None = None
    tpot: str | None = None
    e2el: str | None = None
    classes: Mapping[str, Slo] | None = None

    def data(self) -> Data:
        """Return the section ``slo`` as plain data."""
        classes = None if self.classes is None else {name: slo.data() for name, slo in self.classes.items()}
        given = {"ttft": self.ttft, "tpot": self.tpot, "e2el": self.e2el, "classes": classes}
        return {name: value for name, value in given.items() if value is not None}


def plain(value: Any) -> Any:
    """Return a value with every ``Cluster`` and ``Slo`` in it as plain data."""
    if isinstance(value, Part):
        return value.data()
    if isinstance(value, Mapping):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return value


def _load(arrivals: Data, lengths: Lengths, more: Mapping[str, Any]) -> Data:
    if isinstance(lengths, tuple):
        prompt_tokens, output_tokens = lengths
        given: Any = {"distribution": "fixed", "prompt_tokens": prompt_tokens, "output_tokens": output_tokens}
    else:
        given = lengths if isinstance(lengths, str) else dict(lengths)
    return {"arrivals": arrivals, "lengths": given, **more}


def _link(text: str) -> Any:
    bandwidth, comma, latency = text.partition(",")
    return {"bandwidth": bandwidth.strip(), "latency": latency.strip()} if comma else text
