"""The figures of faults during a run (``domain.summary``)."""

from __future__ import annotations

from dataclasses import dataclass

from helixsim.domain.clients import ClientStats
from helixsim.domain.faults import CopyStats
from helixsim.domain.figures import Figure


@dataclass(frozen=True, slots=True)
class FaultEvent:
    """Something that happened at a time since the start of the run [s]: ``down``, ``detected``, ``up``, ...

    ``nodes``: ids, separated by spaces.
    """

    time_s: Figure
    what: str
    nodes: str


@dataclass(frozen=True, slots=True)
class FaultFigures:
    """Faults of the whole run, and what they did to its requests.

    Parameters
    ----------
    hurt
        Requests that have lost their KV memory at least once.
    lost, retried
        How often requests have lost it, and have been sent again.
    recomputed_tokens
        Tokens of prompts and outputs sent again but those of copies, which are computed again as far as no prefix cache
        has them.
    failed_retries, failed_timeout
        Requests that failed, as they were lost more often than the limit, or waited longer than the timeout.
    before_tokens_per_s
        Output tokens/s from the start of the window until the first failure, of nodes or links; None: there was none
        in the window.
    lowest_tokens_per_s
        Lowest mean of output tokens/s over 30 s after the first failure, in the window.
    recovery_s
        Time from the first failure until this mean was back at 90 % of that before [s]; 0: it was never below; None:
        it was not back in the window.
    missing_tokens
        Output tokens less than at the rate of before, from the first failure to the recovery or, without one, to the
        end of the window; 0: not less.
    clients
        What clients that give up did; None: they wait.
    copies
        Copies of KV memory; None: there are none.
    """

    events: tuple[FaultEvent, ...]
    hurt: int
    lost: int
    retried: int
    recomputed_tokens: int
    failed_retries: int
    failed_timeout: int
    before_tokens_per_s: Figure = None
    lowest_tokens_per_s: Figure = None
    recovery_s: Figure = None
    missing_tokens: Figure = None
    clients: ClientStats | None = None
    copies: CopyStats | None = None
