"""Which of the measured points are asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from helixsim.accuracy.points import MeasuredPoint, where
from helixsim.errors import ConfigError

MOST_LISTED = 30
"""Values of a key that an error lists at most."""


def selected(points: Sequence[MeasuredPoint], conditions: Mapping[str, str]) -> list[MeasuredPoint]:
    """Return the points whose fields have the given values, as text.

    Raises
    ------
    ConfigError
        For a value that none has, with those there are, and for values that none has together.
    """
    for key, value in conditions.items():
        values = {str(getattr(point, key)) for point in points}
        if value not in values:
            raise ConfigError(f"--where {key}={value}: no measured point has it; the points have {_listed(values)}")
    found = where(points, conditions)
    if not found:
        together = " ".join(f"{key}={value}" for key, value in conditions.items())
        raise ConfigError(f"--where: points have each of these values, but none has all: {together}")
    return found


def _listed(values: Iterable[str]) -> str:
    """Return values as one text, numbers in their order; of many the first ones."""
    ordered = sorted(values, key=lambda text: (0, float(text), "") if _is_number(text) else (1, 0.0, text))
    more = f" and {len(ordered) - MOST_LISTED} more" if len(ordered) > MOST_LISTED else ""
    return ", ".join(ordered[:MOST_LISTED]) + more


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).isdigit()
