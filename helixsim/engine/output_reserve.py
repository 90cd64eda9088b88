"""Memory that admission keeps for the output of running sequences, as SGLang estimates it (``new_token_ratio``)."""

from __future__ import annotations

from helixsim.domain.engine import NewTokenRatio


class OutputReserve:
    """The share of the output that running sequences may still generate for which memory is kept, as it is now.

    It falls with each step of decodes alone, is estimated anew when one of them has been preempted, and is that of a
    new server when nothing runs or waits.
    """

    __slots__ = ("_law", "_start", "_steps")

    def __init__(self, law: NewTokenRatio | None) -> None:
        self._law = law
        self._start = 1.0 if law is None else law.first
        self._steps = 0

    @property
    def share(self) -> float:
        """The share, 0..1."""
        return self._start if self._law is None else self._law.after(self._start, self._steps)

    @property
    def is_falling(self) -> bool:
        """Whether each decode step leaves more room for requests that wait."""
        return self._law is not None and self.share > self._law.least

    def decode(self, steps: int) -> None:
        """Take note of so many steps of decodes alone."""
        self._steps += steps

    def retract(self, generated: int, sequences: int, expected: int) -> None:
        """Estimate the share anew: see ``NewTokenRatio.retracted``."""
        if self._law is not None:
            self._start, self._steps = self._law.retracted(generated, sequences, expected), 0

    def reset(self) -> None:
        """Begin as a new server does."""
        if self._law is not None:
            self._start, self._steps = self._law.first, 0
