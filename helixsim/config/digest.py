"""The hash of an experiment: all that its results depend on besides the code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import helixsim
from helixsim.domain.cluster import Cluster, Deployment

_T = TypeVar("_T")


def config_hash(
    document: Mapping[str, Any], file_hashes: Sequence[tuple[str, str]], fleet: Deployment, clusters: Sequence[Cluster]
) -> str:
    """Return the SHA-256 of all inputs; profiles are represented by their figures, each once."""
    profiles, places = _once(fleet.profiles)
    layers = [_once(profile.compute.layers) for profile in profiles]
    resolved = [fleet.model, fleet.cluster, profiles, places, layers, *clusters]
    parts = {
        "document": document,
        "files": file_hashes,
        "resolved": [repr(value) for value in resolved],
        "version": helixsim.__version__,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, allow_nan=False).encode()).hexdigest()


def _once(values: Sequence[_T]) -> tuple[list[_T], list[int]]:
    """Return the different objects among ``values``, and which of them stands where."""
    numbers: dict[int, int] = {}
    places = [numbers.setdefault(id(value), len(numbers)) for value in values]
    return list({id(value): value for value in values}.values()), places
