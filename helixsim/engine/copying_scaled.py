"""Replicas of which not all serve all the time, with copies of KV memory (``copying_replicas``)."""

from __future__ import annotations

from helixsim.engine.copying_replicas import CopyingFrontend, CopyingSystem
from helixsim.engine.faulty_scaled import FaultyScaledFrontend, FaultyScaledSystem, FaultyScaledView
from helixsim.engine.spot_system import SpotSystem


class CopyingScaledFrontend(CopyingFrontend, FaultyScaledFrontend):
    """See ``CopyingFrontend`` and ``FaultyScaledFrontend``."""

    view: FaultyScaledView


class CopyingScaledSystem(CopyingSystem, FaultyScaledSystem):
    """See ``CopyingSystem`` and ``FaultyScaledSystem``."""

    frontend_kind = CopyingScaledFrontend
    frontend: CopyingScaledFrontend


class CopyingSpotSystem(CopyingScaledSystem, SpotSystem):
    """See ``CopyingSystem`` and ``SpotSystem``."""
