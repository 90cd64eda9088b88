"""CSV files of links, with the columns from, to, bandwidth_<unit>, latency_<unit> and, optionally, both."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from helixsim.domain.cluster import LinkSpec
from helixsim.errors import ConfigError, Problem, did_you_mean, unknown_name
from helixsim.units import seconds_to_ns

_BANDWIDTHS: Final = {"bandwidth_bps": 1.0, "bandwidth_kbps": 1e3, "bandwidth_mbps": 1e6, "bandwidth_gbps": 1e9}
_LATENCIES: Final = {"latency_ns": 1e-9, "latency_us": 1e-6, "latency_ms": 1e-3, "latency_s": 1.0}
_DIRECTIONS: Final = {"true": True, "false": False}


def read_links(path: Path, ids: Sequence[str], problems: list[Problem]) -> dict[tuple[str, str], LinkSpec]:
    """Return the links of a CSV file by (source id, destination id); later rows override earlier ones.

    Parameters
    ----------
    path
        The header states the units: one of ``bandwidth_bps _kbps _mbps _gbps`` [bit/s] and one of
        ``latency_ns _us _ms _s``. A row with ``false`` in the column ``both`` applies to one direction only.
    ids
        Ids of the nodes and of the coordinator.
    problems
        Receives all faults with file and line.

    Raises
    ------
    ConfigError
        If the file cannot be read as text.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            rows = [(reader.line_num, row) for reader in [csv.reader(handle)] for row in reader]
    except (OSError, ValueError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError([*problems, Problem(f"{path}:1:1", "", f"cannot be read: {reason}")]) from error
    header = [name.strip() for name in rows[0][1]] if rows else []
    units = _columns(path, header, problems)
    links: dict[tuple[str, str], LinkSpec] = {}
    for line, cells in rows[1:]:
        if not cells or units is None:
            continue
        try:
            row = _row(header, cells)
            bandwidth_bps = _number(row, units[0], _BANDWIDTHS)
            if bandwidth_bps == 0:
                raise ValueError(f"{units[0]}: must be above zero")
            link = LinkSpec(bandwidth_bps, seconds_to_ns(_number(row, units[1], _LATENCIES)))
            src, dst = _node(row, "from", ids), _node(row, "to", ids)
            both = _DIRECTIONS.get(row.get("both", "true").lower())
            if both is None:
                raise ValueError(f"both: expected true or false, got {row['both']!r}")
        except ValueError as error:
            problems.append(Problem(f"{path}:{line}", "", str(error)))
            continue
        links[src, dst] = link
        if both:
            links[dst, src] = link
    return links


def _columns(path: Path, header: Sequence[str], problems: list[Problem]) -> tuple[str, str] | None:
    """Return the names of the bandwidth and the latency column, None if the header is wrong."""
    known = ["from", "to", *_BANDWIDTHS, *_LATENCIES, "both"]
    faults = [
        f"unknown column {name!r}{did_you_mean(name, known)} (known: {', '.join(known)})"
        for name in header
        if name not in known
    ]
    faults += [f"column {name!r} appears twice" for name in dict.fromkeys(header) if header.count(name) > 1]
    faults += [f"column {name!r} is missing" for name in ("from", "to") if name not in header]
    chosen = []
    for what, columns in (("bandwidth", _BANDWIDTHS), ("latency", _LATENCIES)):
        present = [name for name in header if name in columns]
        chosen += present
        if len(present) != 1:
            faults.append(f"exactly one {what} column is needed ({', '.join(columns)}), got {len(present)}")
    problems.extend(Problem(f"{path}:1", "", fault) for fault in faults)
    return None if faults else (chosen[0], chosen[1])


def _row(header: Sequence[str], cells: Sequence[str]) -> dict[str, str]:
    if len(cells) != len(header):
        raise ValueError(f"{len(cells)} cells under {len(header)} columns")
    return {name: cell.strip() for name, cell in zip(header, cells, strict=True)}


def _number(row: Mapping[str, str], column: str, scales: Mapping[str, float]) -> float:
    try:
        value = float(row[column]) * scales[column]
    except ValueError:
        raise ValueError(f"{column}: not a number: {row[column]!r}") from None
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{column}: expected a finite number, 0 or more, got {row[column]!r}")
    return value


def _node(row: Mapping[str, str], column: str, ids: Sequence[str]) -> str:
    if row[column] not in ids:
        raise ValueError(f"{column}: {unknown_name('node', row[column], ids)}")
    return row[column]
