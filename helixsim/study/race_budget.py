"""How long a race may simulate: within a budget, windows are shortened and the least promising entries left out.

Windows are as long as the estimated CPU time of the fewest simulations allows, by output tokens (``config.effort``).
Further entries are simulated until the simulations have taken the events of the budget. Neither depends on the machine,
so that equal experiments race alike everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from helixsim.config.effort import TOKENS_PER_CPU_S
from helixsim.domain.request import Window
from helixsim.placement.tuning import FAR_BELOW
from helixsim.units import NS_PER_S

OF_A_TRIAL, OF_THE_REPORT = 0.25, 0.5
"""Shares of the budget of each trial, and of the comparison with the window of the report."""

USUAL_CPU_S, LARGE_CPU_S = 600.0, 120.0
"""Budget unless stated [s], and that of large fleets: their search takes minutes already."""

EVENTS_PER_CPU_S = 150_000
"""Events simulated in a CPU second, on a machine that adds twenty million integers in a loop in 1 s."""

MOST_EVENTS_PER_TOKEN = 4
"""Events for an output token on long pipelines with small batches, the most seen."""

LARGE_NODES, LARGE_TOKENS_PER_CPU_S = 300, 50_000
"""Fleets of more nodes are large; their long pipelines take more events for a token (``config.effort``)."""


NEAR = 1 + FAR_BELOW
"""Share of the best candidate's estimate from which a large fleet's baseline is compared in a shortened window."""


@dataclass
class Budget:
    """The budget of one race; ``told`` gathers what was shortened, in sentences.

    Parameters
    ----------
    cpu_s
        Estimated CPU time of all simulations together [s].
    tokens_per_s
        Output tokens that arrive in a simulated second; None: not known, and nothing is shortened.
    residence_s
        Estimated time that a request takes [s]. A shorter window shows none that began and ended in it.
    tokens_per_cpu_s
        Output tokens that are simulated in a CPU second.
    is_large
        Whether the fleet is large. Where the comparison is shortened, baselines far below the best candidate by the
        estimate are left out then: routes that branch take ten times the CPU time that is estimated.
    """

    cpu_s: float
    tokens_per_s: float | None
    residence_s: float
    tokens_per_cpu_s: float = TOKENS_PER_CPU_S
    is_large: bool = False
    told: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, stated_cpu_s: float | None, num_nodes: int, tokens_per_s: float | None, residence_s: float) -> Budget:
        """Return the budget of a fleet of so many nodes; ``stated_cpu_s``: that of the user [s]."""
        is_large = num_nodes > LARGE_NODES
        usual_s = LARGE_CPU_S if is_large else USUAL_CPU_S
        speed = LARGE_TOKENS_PER_CPU_S if is_large else TOKENS_PER_CPU_S
        return cls(usual_s if stated_cpu_s is None else stated_cpu_s, tokens_per_s, residence_s, speed, is_large)

    def shortened(self, window: Window, runs: int, share: float) -> Window | None:
        """Return the window of so many simulations that take no more than a share of the budget.

        Warm-up and window keep their proportion. None: not even the time that a request takes is left.
        """
        duration_s = (window.duration_ns or 0) / NS_PER_S
        needed_s = self.simulation_cpu_s(window) * runs
        if needed_s <= share * self.cpu_s:
            return window
        kept = share * self.cpu_s / needed_s
        return _scaled(window, kept) if kept * duration_s >= self.residence_s else None

    def events(self, share: float = 1.0) -> float:
        """Return the events of a share of the budget."""
        return share * self.cpu_s * EVENTS_PER_CPU_S

    def may_exceed(self, window: Window, runs: int, share: float) -> bool:
        """Return whether so many simulations may take more events than a share of the budget."""
        return runs * MOST_EVENTS_PER_TOKEN * self._tokens(window) > self.events(share)

    def left_out(self, what: str, tried: int, entries: int) -> None:
        """Tell that entries were left out, if they were."""
        if tried < entries:
            self.told.append(
                f"{what} had {tried} of {entries} entries, the most promising, in race_cpu_s {self.cpu_s:g}."
            )

    def trials(self, windows: Sequence[Window], runs: Sequence[int]) -> list[Window]:
        """Return the windows of the trials of at least so many entries, without those that are too short to tell."""
        found: list[Window] = []
        for number, (window, count) in enumerate(zip(windows, runs, strict=True), start=1):
            kept = self.shortened(window, count, OF_A_TRIAL)
            if kept is None:
                self.told.append(
                    f"Trial {number} was left out and the estimate ranks its entries: {self._cost(window, count)}."
                )
                return found
            if kept is not window:
                self.told.append(f"Trial {number} was {_length(kept)} long: {self._cost(window, count)}.")
            found.append(kept)
        return found

    def report(self, window: Window, runs: int) -> Window:
        """Return the window in which the finalists are compared; at least as long as a request takes."""
        kept = self.shortened(window, runs, OF_THE_REPORT)
        if kept is window:
            return window
        if kept is None:
            kept = _scaled(window, min(1.0, self.residence_s * NS_PER_S / (window.duration_ns or 1)))
        kept = replace(kept, drain=False)
        self.told.append(
            f"Finalists were compared on {_length(kept)} of the window of the report: {self._cost(window, runs)}."
        )
        return kept

    def can_compare(self, runs: int) -> bool:
        """Return whether so many simulations as long as a request takes fit; always, unless the fleet is large."""
        if not self.is_large or self.tokens_per_s is None:
            return True
        needed_s = runs * self.tokens_per_s * self.residence_s / self.tokens_per_cpu_s
        if needed_s > self.cpu_s:
            cost = f"were estimated at {needed_s:.3g} CPU s, of race_cpu_s {self.cpu_s:g}"
            self.told.append(
                f"The estimate alone selected, and no baseline was compared: {runs} simulations as long as a request "
                f"takes, {self.residence_s:.3g} s, {cost}."
            )
        return needed_s <= self.cpu_s

    def near(self, baselines: Mapping[str, float | None], best: float) -> list[str]:
        """Return the baselines that are compared in a shortened window, by their estimates and the best candidate's.

        Estimates are those of ``Evaluator.estimate``; a baseline without one stays.
        """
        # Below zero it is the share of the load that is served, less one.
        least = NEAR * best if best > 0 else NEAR * (1 + best) - 1
        far = [name for name, estimate in baselines.items() if estimate is not None and estimate < least]
        if far:
            share = f"less than {100 * NEAR:g} % as good as the best candidate"
            self.told.append(f"Not compared, by the estimate {share}: {', '.join(far)}.")
        return [name for name in baselines if name not in far]

    def simulation_cpu_s(self, window: Window) -> float:
        """Return the estimated CPU time of one simulation [s]; 0 where the load has no rate."""
        return self._tokens(window) / self.tokens_per_cpu_s

    def _tokens(self, window: Window) -> float:
        """Return the output tokens that arrive in a window and its warm-up; 0 where the load has no rate."""
        if self.tokens_per_s is None or window.duration_ns is None:
            return 0.0
        return self.tokens_per_s * (window.warmup_ns + window.duration_ns) / NS_PER_S

    def _cost(self, window: Window, runs: int) -> str:
        cpu_s = self.simulation_cpu_s(window) * runs
        return (
            f"{runs} simulations of {_length(window)} were estimated at {cpu_s:.3g} CPU s, of race_cpu_s {self.cpu_s:g}"
        )


def _scaled(window: Window, share: float) -> Window:
    return replace(window, warmup_ns=int(window.warmup_ns * share), duration_ns=int((window.duration_ns or 0) * share))


def _length(window: Window) -> str:
    return f"{(window.duration_ns or 0) / NS_PER_S:.3g} s"
