"""Named random streams from one seed.

A stream depends on its *name*, not on the order of calls, so streams are independent of each other and all systems of
an experiment receive the same requests (common random numbers).
"""

from __future__ import annotations

import zlib

import numpy as np


def stream(seed: int, name: str) -> np.random.Generator:
    """Return the random generator of ``name`` (for example ``"arrivals"``) under ``seed``."""
    return np.random.default_rng(np.random.SeedSequence([seed, zlib.crc32(name.encode())]))
