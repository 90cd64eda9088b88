"""Columns of the master program: a stage group, and the slot of the pipeline that it fills.

A pipeline passes its regions in order and each once. A column is either a stage group inside one region, of which a
pipeline may use any number, or the one bridge between two consecutive regions.
"""

from __future__ import annotations

from typing import NamedTuple

from helixsim.placement.stages import StageGroup


class Inside(NamedTuple):
    """The slot of stage groups inside a region; ``region`` is its position along the pipeline."""

    region: int


class Bridge(NamedTuple):
    """The slot between the regions at positions ``crossing`` and ``crossing + 1``.

    Its stage group has segments of both regions, or is empty. The stage group before it must be spread at least
    ``spread_before`` ways, the one after it ``spread_after`` ways.
    """

    crossing: int
    spread_before: int
    spread_after: int


Slot = Inside | Bridge


class Column(NamedTuple):
    """A stage group in a slot.

    A stage group is *spread* n ways if it carries the target flow F even when each segment counts for F / n at most.
    """

    slot: Slot
    stage_group: StageGroup
    spread: int

    @property
    def is_bridge(self) -> bool:
        """Whether the column is a bridge, which a pipeline uses at most once."""
        return isinstance(self.slot, Bridge)
