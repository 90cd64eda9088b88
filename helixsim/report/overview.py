"""The overview of a report: a row per system with its main figures, which the page sorts and whose columns it hides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from helixsim.domain.summary import Summary, milliseconds
from helixsim.metrics.verdict_text import share_text
from helixsim.report.verdict_rows import high_latency, latency_number, symbol_of
from helixsim.results.run import Run
from helixsim.results.runset import RunSet
from helixsim.units import MISSING, number, percent


@dataclass(frozen=True, slots=True)
class Cell:
    """Text of a cell, the value it is sorted by (None: last), and its CSS class: ``good``, ``bad`` or none."""

    text: str
    value: float | None = None
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Overview:
    """Heads of the columns, and (system, cells) of each row."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]


def overview(runs: RunSet) -> Overview:
    """Return the main figures of each system, those that miss an objective at p99 marked."""
    slo = runs.slo
    columns: list[tuple[str, Callable[[Run], Cell]]] = []
    if slo.is_stated:
        columns += [
            ("within SLO, %", lambda run: _plain(run.summary.throughput.slo_attainment, share_text)),
            ("goodput, req/s", lambda run: _plain(run.summary.throughput.goodput_per_s)),
        ]
    columns += [
        ("output tokens/s", _output),
        (f"× {runs.baseline}", lambda run: _ratio(runs, run.name)),
        ("TTFT p50, s", lambda run: _plain(run.summary.ttft.p50_s)),
        ("TTFT p99, s", lambda run: _high(runs, run, "TTFT")),
        ("TPOT p50, ms", lambda run: _plain(milliseconds(run.summary.tpot.p50_s))),
        ("TPOT p99, ms", lambda run: _high(runs, run, "TPOT")),
    ]
    if slo.e2el_s is not None:
        columns.append(("E2EL p99, s", lambda run: _high(runs, run, "E2EL")))
    columns += [
        ("load", lambda run: _load(run.summary)),
        (
            "preemp\u00adtions",
            lambda run: Cell(str(run.summary.integrity.preemptions), run.summary.integrity.preemptions),
        ),
        ("KV use, %", lambda run: _plain(run.summary.cluster.kv_mean, percent)),
        ("$ per Mtok", lambda run: _plain(run.summary.cost.usd_per_mtok)),
        ("accuracy", _accuracy),
    ]
    return Overview(
        tuple(head for head, _ in columns),
        tuple((name, tuple(cell(run) for _, cell in columns)) for name, run in runs.items()),
    )


def _plain(value: float | None, text: Callable[[float | None], str] = number) -> Cell:
    return Cell(text(value), value)


def _high(runs: RunSet, run: Run, name: str) -> Cell:
    """Return the 99th percentile of a latency, with the result of the verdict if there is an objective."""
    value_s, own = high_latency(run.summary, runs.verdict.systems.get(run.name), name)
    value = milliseconds(value_s) if name == "TPOT" else value_s
    if own is None:
        return _plain(value)
    kind = {True: "good", False: "bad", None: ""}[own.figures.is_met]
    return Cell(f"{latency_number(value)} {symbol_of(own)}", value, kind)


def _output(run: Run) -> Cell:
    served = run.summary.throughput
    limits = served.output_interval
    half = "" if limits is None else f" ± {number((limits.high - limits.low) / 2)}"
    return Cell(number(served.output_tokens_per_s) + half, served.output_tokens_per_s)


def _ratio(runs: RunSet, name: str) -> Cell:
    ratio = runs.comparisons[name].output_tokens_ratio
    return Cell(MISSING if ratio is None else f"{ratio:.2f}", ratio)


def _load(summary: Summary) -> Cell:
    word = str(summary.load.saturation).lower()
    return Cell(word, None, "bad" if word == "overloaded" else "")


def _accuracy(run: Run) -> Cell:
    error = run.model_error
    return Cell(MISSING) if error is None else Cell(error.label)
