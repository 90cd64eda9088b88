"""Fitted constants behind the predictions, with their sources and the errors of the points that they decide."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from helixsim import yamlio
from helixsim.accuracy.cells import Error
from helixsim.accuracy.errors import errors, summarised
from helixsim.accuracy.run import PointResult
from helixsim.datafiles import data_path
from helixsim.hardware.catalog import gpu_document
from helixsim.hardware.engines import OVERHEADS
from helixsim.units import parse

SENTENCES = (
    "Constants of kernels are fitted to timings of kernels; where served points gave one, its source says so. A GPU "
    "without constants of its own has those of another: its error is that of a GPU left out of the fit.",
    "Errors of kernels with whole GPUs and models left out of the fit are in docs/step-time.md.",
)

_TEXTS = ("name", "source")


def constants(results: Sequence[PointResult]) -> dict[str, Any] | None:
    """Return sentences and rows (name, number, source, errors by GPU or engine); None without results.

    A row of kernels has one error for each GPU that takes them, a row of an engine that of its points.
    """
    if not results:
        return None
    kernels: dict[str, tuple[int, str]] = {}
    takers: dict[str, list[str]] = defaultdict(list)
    for gpu in sorted({result.point.gpu for result in results}):
        written = gpu_document(gpu)["kernels"]
        name = str(written.get("name", gpu))
        kernels[name] = _count(written), _sources(written)
        takers[name].append(gpu)
    rows = [
        {"name": f"kernels: {name}", "count": count, "source": source, "errors": _errors(results, "gpu", takers[name])}
        for name, (count, source) in sorted(kernels.items())
    ]
    for engine in sorted({result.point.engine for result in results}):
        count, source = _host(engine)
        row = {
            "name": f"host: {engine}",
            "count": count,
            "source": source,
            "errors": _errors(results, "engine", [engine]),
        }
        rows.append(row)
    return {"sentences": SENTENCES, "rows": rows}


def _errors(results: Sequence[PointResult], field: str, names: Sequence[str]) -> list[tuple[str, Error]]:
    found = []
    for name in names:
        summary = summarised(errors([result for result in results if getattr(result.point, field) == name], "tpot"))
        if summary is not None:
            found.append((name, summary))
    return found


def _count(written: object) -> int:
    """Return the number of values in a document, its texts left out."""
    if isinstance(written, Mapping):
        return sum(_count(value) for key, value in written.items() if key not in _TEXTS)
    return 1


def _sources(written: Mapping[str, Any]) -> str:
    own = str(written.get("source", ""))
    others = [f"{name}: {part['source']}" for name, part in written.get("engines", {}).items() if "source" in part]
    return "; ".join(filter(None, [own, *others]))


def _host(engine: str) -> tuple[int, str]:
    """Return how many overheads of an engine are not zero, and their sources."""
    written = yamlio.load(data_path("profiles", "engines", f"{engine}.yaml")).data
    sources = written.get("sources", {})
    found = [key for key in OVERHEADS if key in written and parse(str(written[key]), "time") > 0]
    return len(found), "; ".join(f"{key}: {sources[key]}" for key in found if key in sources)
