"""A search for fleets, from the plan to the report."""

from __future__ import annotations

from pathlib import Path

from helixsim.config.plan_file import FleetPlan
from helixsim.experiment import Experiment
from helixsim.planning.fleet import OnProgress, find_fleet
from helixsim.planning.fleet_trial import varied
from helixsim.report.fleet_files import write_fleets
from helixsim.results.fleet import FleetResults
from helixsim.runtime.identity import content_key, errors_digest, experiment_key
from helixsim.runtime.pool import Executor
from helixsim.study.faults import refuse_faults
from helixsim.study.rundir import results_directory


def run_fleet(
    plan: FleetPlan,
    out: Path,
    executor: Executor,
    *,
    base: Experiment | None = None,
    force: bool = False,
    on_progress: OnProgress = lambda _share, _what, _table: None,
) -> tuple[Path, FleetResults]:
    """Search the fleet, write its tables, figure and page unless they exist, and return their directory.

    Simulations of earlier searches are reused, so that a finished search is repeated within seconds.

    Raises
    ------
    HelixsimError
        As ``find_fleet``.
    """
    key = fleet_key(plan, base)
    directory = fleet_directory(plan, out, key)

    def compute() -> FleetResults:
        return find_fleet(plan, out, executor, base=base, force=force, on_progress=on_progress)

    return directory, results_directory(directory, key, compute, write_fleets, force=force) or compute()


def fleet_key(plan: FleetPlan, experiment: Experiment | None = None) -> str:
    """Return the content key of the results of a plan; ``experiment``: as ``base`` in ``find_fleet``.

    Documents of fleets hold model errors. With another table of these they are written again, from kept simulations.
    """
    resolved = varied(plan, experiment).resolve()
    refuse_faults(resolved, "fleet")
    base = experiment_key(resolved)
    parts = (plan.name, plan.question, plan.system, plan.offers, plan.budget_usd_per_hour, plan.simulations,
             plan.percentile, plan.share)  # fmt: skip
    return content_key("fleet", base, parts, errors_digest())


def fleet_directory(plan: FleetPlan, out: Path, key: str) -> Path:
    """Return where the results of a plan belong."""
    return out / "fleet" / plan.name / key[:12]
