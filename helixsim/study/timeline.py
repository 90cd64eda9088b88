"""Recording of parts of finished runs: their systems are simulated again, up to the end of the part."""

from __future__ import annotations

from collections.abc import Sequence

from helixsim.config.experiment import ResolvedExperiment
from helixsim.domain.timeline import Timeline
from helixsim.report.trace_events import Recording
from helixsim.results.runset import RunSet
from helixsim.study.faults import simulate_run
from helixsim.study.placing import assembled
from helixsim.study.whatif import cases
from helixsim.units import NS_PER_S, seconds_to_ns

USUAL_SPAN_S = 10.0
"""Recorded from the start of the measurement window unless another part is wanted [s]."""

MOST = 50_000
"""Iterations, and messages, recorded of a system."""


def record(
    experiment: ResolvedExperiment,
    runs: RunSet,
    systems: Sequence[str],
    part_s: tuple[float, float] | None = None,
    *,
    most: int = MOST,
) -> list[Recording]:
    """Return what systems of a run did in a part of its time.

    Equal seeds give equal runs, so this is what happened in the run.

    Parameters
    ----------
    part_s
        Start and end in simulated time [s]; None: the first ``USUAL_SPAN_S`` of the measurement window.
    most
        Iterations, and messages, kept of a system.
    """
    found = []
    for case in cases(experiment):
        if case.name not in systems or case.name not in runs:
            continue
        start_ns = case.experiment.workload.window.warmup_ns
        end_ns = start_ns + round(USUAL_SPAN_S * NS_PER_S)
        if part_s is not None:
            start_ns, end_ns = map(seconds_to_ns, part_s)
        timeline = Timeline(start_ns, end_ns, most)
        placed = assembled(case.experiment, case.system, runs[case.name].placement)
        result = simulate_run(case.experiment, placed, timeline=timeline)
        found.append(Recording(case.name, placed.placement, placed.plan.replicas, result, timeline))
    return found
