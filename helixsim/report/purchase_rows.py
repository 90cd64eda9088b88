"""Rows of the ranking of next purchases."""

from __future__ import annotations

from collections.abc import Sequence

from helixsim.results.purchases import Purchase
from helixsim.units import MISSING, number

PURCHASE_HEAD = ("one more", "$/h", "adds requests/s", "requests/s per $/h", "by")


def purchase_rows(purchases: Sequence[Purchase]) -> list[tuple[str, ...]]:
    """Return the purchases as rows below ``PURCHASE_HEAD``."""
    return [
        (
            one.label,
            f"{one.usd_per_hour:.2f}",
            number(one.adds_rps),
            number(one.rps_per_usd) if one.usd_per_hour else MISSING,
            "simulation" if one.is_simulated else "estimate",
        )
        for one in purchases
    ]
