"""Clients that give up waiting and send their requests again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from helixsim.units import NS_PER_S


@dataclass(frozen=True, slots=True)
class ClientSpec:
    """When clients give up, and how often and after what time they send a request again.

    The defaults are those of OpenAI's Python client (``_constants.py``: ``DEFAULT_TIMEOUT``, ``DEFAULT_MAX_RETRIES``,
    ``INITIAL_RETRY_DELAY``, ``MAX_RETRY_DELAY``), as is the rule of the delay (``_calculate_retry_timeout``).

    Parameters
    ----------
    timeout_ns
        Time from sending a request to giving it up [ns].
    until
        What has to come before that: the first token, or the last one.
    retries
        A request is sent again so often at most.
    backoff_ns, most_backoff_ns
        The wait before it is sent again the first time, doubled each time, and the longest [ns].
    jitter
        Each wait is shorter by a random share, at most this.
    """

    timeout_ns: int = 600 * NS_PER_S
    until: Literal["first_token", "end"] = "end"
    retries: int = 2
    backoff_ns: int = NS_PER_S // 2
    most_backoff_ns: int = 8 * NS_PER_S
    jitter: float = 0.25

    def wait_ns(self, attempt: int, share: float) -> int:
        """Return the wait behind the ``attempt``-th attempt, counted from 0; ``share``: random, 0..1 [ns]."""
        doubled = min(self.backoff_ns * 2.0 ** min(attempt, 64), float(self.most_backoff_ns))
        return round(doubled * (1 - self.jitter * share))


@dataclass(frozen=True, slots=True)
class ClientStats:
    """What clients did in a run.

    Parameters
    ----------
    gave_up
        Attempts given up by clients.
    sent_again
        Attempts that repeat another.
    abandoned
        Requests whose last allowed attempt failed.
    """

    gave_up: int = 0
    sent_again: int = 0
    abandoned: int = 0
