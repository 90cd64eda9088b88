"""A node that schedules by itself and can stop.

A step belongs to an earlier life if it left the coordinator before its route was lost: then one number is smaller than
another (``Lives``). Such steps are dropped wherever they arrive.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from helixsim.domain.step_time import StepTime
from helixsim.engine.faults import SlowedTime
from helixsim.engine.kernel import Timer
from helixsim.engine.state import Cohort, Parcel
from helixsim.engine.worker import Worker


@dataclass
class Lives:
    """Path number -> departure number from which steps on it are of requests that have their KV memory."""

    first: dict[int, int] = field(default_factory=dict)

    def has(self, cohort: Cohort) -> bool:
        """Return whether the requests of a step have not lost their KV memory since it left the coordinator."""
        return cohort.number >= self.first.get(cohort.path.number, 0)

    def parts(self, parcel: Parcel) -> list[Parcel]:
        """Return what is left of a message, which may have to be divided for that."""
        alive = sum([self.has(cohort) for cohort in parcel.cohorts])
        if alive == len(parcel.cohorts):
            return [parcel]
        return [part for part in parcel.apart() if self.has(part.cohorts[0])] if alive else []


class FaultyWorker(Worker):
    """A node that can stop, and that drops steps of earlier lives."""

    lives: Lives
    usual_time: StepTime
    is_down: bool

    def receive(self, parcel: Parcel) -> None:
        """See ``Worker.receive``."""
        if not self.is_down:
            for part in self.lives.parts(parcel):
                super().receive(part)

    def stop(self) -> None:
        """Stop computing; the batch and all that waits for one is gone."""
        self.is_down = True
        if self.is_busy:
            self.is_busy = False
            self.busy_ns += self._kernel.now_ns - self._started_ns
        self.ends_ns = -1
        self._batch = ([], [])
        self._prefills, self._decodes, self._decode_seqs = [], [], 0

    def forget_lost(self) -> None:
        """Take steps of earlier lives out of the queue; those in the batch are computed."""
        self._prefills = [parcel for parcel in self._prefills if self.lives.has(parcel.cohorts[0])]
        self._decodes = [part for parcel in self._decodes for part in self.lives.parts(parcel)]
        self._decode_seqs = sum([parcel.tokens for parcel in self._decodes])

    def slow(self, factor: float) -> None:
        """Let batches that begin from now on take so many times as long as they should."""
        self._step_time = self.usual_time if factor == 1.0 else SlowedTime(self.usual_time, factor)

    @property
    def is_due(self) -> bool:
        """Whether its batch ends now; else an end that comes now is that of a batch that was lost."""
        return self.ends_ns == self._kernel.now_ns

    def _finish(self, event: Timer) -> None:
        if self.is_due:
            super()._finish(event)
