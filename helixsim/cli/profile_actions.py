"""The actions of ``helixsim profile``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from helixsim import validation
from helixsim.cli import profile_gpus
from helixsim.domain.model import ModelSpec
from helixsim.errors import DataError, ExitCode, unknown_name
from helixsim.hardware import catalog, compute_file, engines
from helixsim.hardware.compute_file import FittedKind
from helixsim.hardware.mig import is_instance
from helixsim.units import GIB, NS_PER_S, format_bandwidth, format_bytes, format_seconds


def run_list(args: argparse.Namespace) -> int:
    """Print the names of one family or of all families."""
    families = [args.family] if args.family else list(_FAMILIES)
    tables = {family: _FAMILIES[family]() for family in families}
    if args.json:
        print_json(
            {family: [dict(zip(header, row, strict=True)) for row in rows] for family, (header, rows) in tables.items()}
        )
        return ExitCode.OK
    print("\n\n".join(f"{family}\n{aligned(header, rows)}" for family, (header, rows) in tables.items()))
    return ExitCode.OK


def run_show(args: argparse.Namespace) -> int:
    """Print all figures of one profile."""
    facts = _facts(args.name, args.precision)
    if args.json:
        print_json(facts)
    elif _is_gpu(args.name):
        print(profile_gpus.outline(catalog.load_gpu(args.name)))
    else:
        print(outline(facts))
    return ExitCode.OK


Table = tuple[tuple[str, ...], list[tuple[str, ...]]]


def _gpu_table() -> Table:
    return profile_gpus.header(), [profile_gpus.row(name) for name in catalog.gpu_names()]


def _link_table() -> Table:
    rows: list[tuple[str, ...]] = []
    for name in catalog.link_names():
        link = catalog.load_link(name)
        rows.append((name, format_bandwidth(link.bandwidth_bps), format_seconds(link.latency_ns / NS_PER_S)))
    return ("name", "bandwidth", "latency"), rows


def _model_table() -> Table:
    rows: list[tuple[str, ...]] = []
    ids: dict[str, list[str]] = {}
    for identity, name in catalog.hugging_face_ids().items():
        ids.setdefault(name, []).append(identity)
    for name in catalog.model_names():
        model = catalog.load_model(name)
        total = model.weight_bytes_per_layer * model.num_layers + model.embedding_bytes
        rows.append(
            (
                name,
                str(model.num_layers),
                f"{total / GIB:.1f} GiB",
                model.precision,
                format_bytes(model.weight_bytes_per_layer),
                format_bytes(model.kv_bytes_per_token_per_layer),
                str(model.max_context_tokens),
                ", ".join(ids.get(name, [])),
            )
        )
    header = ("name", "layers", "weights", "in", "per layer", "KV per token and layer", "context tokens")
    return (*header, "Hugging Face"), rows


def _engine_figure(value: Any) -> str:
    """Return a figure of an engine as a cell: rules by GPU and sizes of CUDA graphs by their values."""
    if isinstance(value, dict):  # CUDA graphs
        return f"up to {_engine_figure(value['most'])}"
    if isinstance(value, list):
        return " / ".join(dict.fromkeys(str(rule["value"]) for rule in value)) + " by GPU" * (len(value) > 1)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "–" if value is None else str(value)


def _engine_table() -> Table:
    rows = [
        (name, *(_engine_figure(engines.load_engine(name).figures()[figure]) for figure in engines.FIGURES))
        for name in engines.engine_names()
    ]
    return ("name", *(figure.replace("_", " ") for figure in engines.FIGURES)), rows


def _compute_table() -> Table:
    return fit_table([fitted for name in catalog.model_names() for fitted in compute_file.committed(name)])


_FAMILIES: dict[str, Callable[[], Table]] = {
    "gpus": _gpu_table,
    "links": _link_table,
    "models": _model_table,
    "engines": _engine_table,
    "compute": _compute_table,
}


def fit_table(kinds: Sequence[FittedKind]) -> Table:
    """Return the errors of fitted profiles."""
    header = (
        "name",
        "prefill knots",
        "median error",
        "worst",
        "decode knots",
        "median error",
        "worst",
        "KV error",
        "max layers",
    )
    rows: list[tuple[str, ...]] = []
    for fitted in kinds:
        row = [f"{fitted.model}/{fitted.kind}"]
        for curve in (fitted.prefill, fitted.decode):
            row += [str(len(curve.curve.x)), f"{curve.median_error:.1%}", f"{curve.worst_error:.1%}"]
        row.append("-" if fitted.memory is None else f"{fitted.memory.worst_error:.2%}")
        row.append("-" if fitted.planner is None else str(fitted.planner.max_layers))
        rows.append(tuple(row))
    return header, rows


def _model_facts(model: ModelSpec) -> dict[str, Any]:
    """Return the model's figures, with equal layers in a row told once."""
    layers = []
    for layer, same in groupby(model.layers):
        facts = {**asdict(layer), "weight_bytes": layer.weight_bytes, "active_parameters": layer.active_parameters}
        layers.append({"layers": len(list(same)), **facts})
    return {
        "name": model.name,
        "num_layers": model.num_layers,
        **{key: value for key, value in asdict(replace(model, layers=())).items() if key not in {"name", "layers"}},
        "parameters": model.parameters,
        "active_parameters": model.active_parameters,
        "weight_bytes_per_layer": model.weight_bytes_per_layer,
        "kv_bytes_per_token_per_layer": model.kv_bytes_per_token_per_layer,
        "flops_per_token_per_layer": model.flops_per_token_per_layer,
        "embedding_bytes": model.embedding_bytes,
        "layers": layers,
    }


_KEY_OF_FILES = {
    "gpu": "memory_bandwidth",
    "engine": "batch_overhead",
    "link": "latency",
    "model": "num_hidden_layers",
    "compute": "kinds",
}
"""A key that only files of one kind have."""


def _kind_of_file(name: str) -> str:
    """Return which kind of profile the YAML file of that name is; an empty text for a name that is no such file."""
    path = Path(name)
    if path.suffix not in {".yaml", ".yml"} or not path.is_file():
        return ""
    written = validation.load(path).data
    for kind, key in _KEY_OF_FILES.items():
        if isinstance(written, dict) and key in written:
            return kind
    keys = ", ".join(f"{key} ({kind})" for kind, key in _KEY_OF_FILES.items())
    raise DataError(f"{name}: no profile, which would have one of the keys {keys}")


def _is_gpu(name: str) -> bool:
    return catalog.is_gpu(name) or _kind_of_file(name) == "gpu"


def _facts(name: str, precision: str | None) -> dict[str, Any]:
    file = _kind_of_file(name)
    if _is_gpu(name):
        gpu = asdict(catalog.load_gpu(name))
        return {**gpu, "sources": dict(gpu["sources"])}
    if name in engines.engine_names() or file == "engine":
        return engines.document(engines.load_engine(name))
    if name in catalog.link_names() or file == "link":
        return {"name": name, **asdict(catalog.load_link(name))}
    if file == "compute":
        return compute_file.document(compute_file.read(Path(name)))
    names_model = name in catalog.model_names() or name in catalog.hugging_face_ids()
    if names_model or file == "model" or name.endswith(".json") or Path(name).is_dir():
        return _model_facts(catalog.load_model(name, precision))
    model, slash, kind = name.rpartition("/")
    for fitted in compute_file.committed(model) if slash else ():
        if fitted.kind == kind:
            return compute_file.document([fitted])
    known = (
        *catalog.gpu_names(),
        *catalog.link_names(),
        *catalog.model_names(),
        *engines.engine_names(),
        *compute_file.fitted_names(),
    )
    hint = catalog.hugging_face_hint(name) if "/" in name else ""
    if is_instance(name):
        raise DataError(catalog.unknown_gpu(name))
    raise DataError(f"{name}: no profile of that name{hint}" if hint else unknown_name("profile", name, known))


def print_kinds(kinds: Sequence[FittedKind]) -> None:
    """Print fitted profiles as one JSON document."""
    print_json([{"model": one.model, "kind": one.kind, **_entry(one)} for one in kinds])


def _entry(fitted: FittedKind) -> dict[str, Any]:
    entry: dict[str, Any] = compute_file.document([fitted])["kinds"][fitted.kind]
    return entry


def outline(facts: dict[str, Any], indent: str = "") -> str:
    """Return nested facts as indented lines."""
    lines = []
    for key, value in facts.items():
        if isinstance(value, dict):
            lines += [f"{indent}{key}:", outline(value, indent + "  ")]
        else:
            if isinstance(value, (list, tuple)) and value and isinstance(value[0], dict):
                lines += [f"{indent}{key}:", *(outline(entry, indent + "  ") + "\n" for entry in value)]
                continue
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            lines.append(f"{indent}{key}: {text}")
    return "\n".join(lines)


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table as text."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (header, *rows))
    return "\n".join(line.rstrip() for line in lines)


def print_json(document: object) -> None:
    """Print a document as JSON."""
    print(json.dumps(document, indent=2))
