"""helixsim: simulate and plan LLM serving on clusters of mixed GPUs."""

from __future__ import annotations

__version__ = "0.1.0"
