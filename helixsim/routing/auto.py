"""Routing that is selected together with the placement."""

from __future__ import annotations

from typing import ClassVar

from helixsim.routing.earliest_finish import EarliestFinish


class Auto(EarliestFinish):
    """What the strategy ``helix`` selects together with the placement (``study.race``).

    With ``helix`` under a load without a rate it is ``flow_weighted``, with other strategies ``earliest_finish``.
    """

    summary: ClassVar[str] = "selected with the placement by helix (flow_weighted without a rate); else earliest_finish"
