"""Finished systems of a run, stored on disk until the run directory is complete.

After an interruption, or if the run directory cannot be written, a repeated run continues with the missing systems.
"""

from __future__ import annotations

import base64
import dataclasses
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from helixsim.domain.flowplan import Route
from helixsim.domain.placement import LayerRange, Placement
from helixsim.domain.request import FeedMode
from helixsim.domain.result import (
    GapHistogram,
    InvariantCheck,
    LinkStats,
    NodeStats,
    RequestColumns,
    RunResult,
    Series,
)
from helixsim.runtime.store import Codec, Store
from helixsim.study.placements import decoded_placement
from helixsim.study.rundir import work_folder

SCHEMA = 1

_ARRAY = "array"


@dataclass(frozen=True)
class Simulated:
    """What the simulation of one placed system leaves; everything else of its report follows from it."""

    placement: Placement
    run: RunResult


SimulatedStore = Store[Simulated]


def simulated_store(directory: Path, *, renew: bool = False) -> SimulatedStore:
    """Return the simulated systems kept in a folder; ``renew``: simulate anew and replace them."""
    return Store(directory, "simulated system", SCHEMA, Codec(_encoded, _decoded), renew=renew)


def simulated_in(run_directory: Path, *, check: bool) -> Path:
    """Return where the finished systems of an unfinished run are kept; ``check``: with the invariants checked."""
    return work_folder(run_directory) / ("systems-checked" if check else "systems")


def _encoded(value: Any) -> Any:
    """Return JSON values; arrays become text, which is smaller and faster than lists of numbers."""
    if isinstance(value, np.ndarray):
        data = base64.b64encode(zlib.compress(np.ascontiguousarray(value).tobytes(), 1)).decode()
        return {_ARRAY: value.dtype.str, "shape": list(value.shape), "data": data}
    if dataclasses.is_dataclass(value):
        return {field.name: _encoded(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _encoded(one) for key, one in value.items()}
    if isinstance(value, (tuple, list)):
        return [_encoded(one) for one in value]
    return value


def _arrays(value: Any) -> Any:
    """Return JSON values with arrays in place of their text."""
    if isinstance(value, dict):
        if _ARRAY in value:
            data = zlib.decompress(base64.b64decode(value["data"]))
            return np.frombuffer(data, dtype=np.dtype(value[_ARRAY])).reshape(value["shape"]).copy()
        return {key: _arrays(one) for key, one in value.items()}
    return [_arrays(one) for one in value] if isinstance(value, list) else value


def _decoded(document: dict[str, Any]) -> Simulated:
    run = _arrays(document["run"])
    for name in ("nodes", "links"):
        run[name] = {key: tuple(one) if isinstance(one, list) else one for key, one in run[name].items()}
    routes = (Route(tuple((node, LayerRange(**held)) for node, held in route["hops"])) for route in run["routes"])
    columns: dict[str, Any] = {
        "mode": FeedMode(run["mode"]),
        "requests": RequestColumns(**run["requests"]),
        "routes": tuple(routes),
        "series": Series(**run["series"]),
        "nodes": NodeStats(**run["nodes"]),
        "links": LinkStats(**run["links"]),
        "gaps": GapHistogram(**run["gaps"]),
        "classes": tuple(run["classes"]),
        "invariants": tuple(InvariantCheck(**check) for check in run["invariants"]),
    }
    return Simulated(decoded_placement(document["placement"]), RunResult(**{**run, **columns}))
