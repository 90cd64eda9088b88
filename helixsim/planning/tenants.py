"""Several tenants on one cluster: the division of its nodes, and the run of each tenant on its part."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from helixsim.config.experiment import ResolvedExperiment
from helixsim.errors import ConfigError, InfeasibleError
from helixsim.experiment import Tenant, Tenants
from helixsim.planning.capacity import capacity_targets
from helixsim.planning.tenant_parts import (
    NO_NODE,
    counts_of,
    each_alone,
    kinds_of,
    nodes_of,
    run_part,
    run_parts,
    task_of,
    usable_nodes,
)
from helixsim.planning.tenant_rules import EQUALLY, IN_PROPORTION
from helixsim.planning.tenant_search import DivisionSearch
from helixsim.report.tenant_files import write_tenants
from helixsim.results.tenants import Division, TenantResults, TenantTerms
from helixsim.runtime.identity import content_key, errors_digest, experiment_key
from helixsim.runtime.pool import Executor
from helixsim.study.rundir import results_directory

OnProgress = Callable[[float, str], None]
"""Called with the share that is done, 0..1, and what is being done."""

STATED = "by hand, as stated"
"""Origin of a division that the file states."""


def run_tenants(
    tenants: Tenants,
    out: Path,
    executor: Executor,
    *,
    force: bool = False,
    check: bool = False,
    on_progress: OnProgress = lambda _share, _what: None,
) -> Path:
    """Run every tenant on its part of the cluster, and return the directory of the results of all.

    Each tenant's run is an ordinary run directory below ``out``, and is reused if it exists.

    Raises
    ------
    HelixsimError
        If a tenant's experiment is invalid, or its run fails for another reason than that it cannot be placed.
    """
    resolved = resolved_tenants(tenants)
    key = tenants_key(tenants, resolved, check=check)
    directory = tenants_directory(tenants, out, key)

    def compute() -> TenantResults:
        return _Study(tenants, resolved, out, executor, force, check, on_progress).results()

    results_directory(directory, key, compute, write_tenants, force=force)
    return directory


def resolved_tenants(tenants: Tenants, *, imports: bool = True) -> list[ResolvedExperiment]:
    """Return the experiment of each tenant on its own nodes, or on all that it can use if none are stated.

    Raises
    ------
    HelixsimError
        With the faults of the first tenant that has any.
    """
    found = []
    for number, one in enumerate(tenants.tenants):
        nodes = one.nodes
        if nodes is None:
            nodes = usable_nodes(tenants, kinds_of(tenants.nodes), number)
        try:
            found.append(one.on(nodes, tenants.nodes).resolve(imports=imports))
        except InfeasibleError as error:
            raise error.within(f"tenant {one.name}") from None
        if one.nodes is None:
            try:
                capacity_targets(found[-1], 99.0, None)
            except ConfigError as error:
                raise error.within(f"tenant {one.name}, for which nodes are planned") from None
    return found


def stated_parts(tenants: Tenants) -> dict[str, ResolvedExperiment]:
    """Return the experiment of each tenant on its own nodes, by its name.

    Raises
    ------
    HelixsimError
        If its nodes are to be planned, or with the faults of the first tenant that has any.
    """
    unknown = [one.name for one in tenants.tenants if one.nodes is None]
    if unknown:
        raise ConfigError(f"tenant {unknown[0]} states no nodes: only run and sweep plan them; add nodes")
    return {one.name: own for one, own in zip(tenants.tenants, resolved_tenants(tenants), strict=True)}


def tenants_key(tenants: Tenants, resolved: Sequence[ResolvedExperiment], *, check: bool = False) -> str:
    """Return the content key of the results."""
    terms = [(one.members, one.nodes) for one in tenants.tenants]
    keys = [experiment_key(one) for one in resolved]
    return content_key("tenants", tenants.name, terms, keys, tenants.division, check, errors_digest())


def tenants_directory(tenants: Tenants, out: Path, key: str) -> Path:
    """Return where the results belong."""
    return out / "tenants" / tenants.name / key[:12]


class _Study:
    """The search for a division, if none is stated, and the runs of the tenants."""

    def __init__(
        self,
        tenants: Tenants,
        resolved: Sequence[ResolvedExperiment],
        out: Path,
        executor: Executor,
        force: bool,
        check: bool,
        on_progress: OnProgress,
    ) -> None:
        self.tenants, self.resolved, self.out, self.executor = tenants, resolved, out, executor
        self.force, self.check, self.on_progress = force, check, on_progress
        self.kinds = kinds_of(tenants.nodes)

    def results(self) -> TenantResults:
        """Return the results of the stated division, or of the best that is found."""
        nodes = [one.nodes for one in self.tenants.tenants if one.nodes is not None]
        if nodes:
            return self._results(STATED, tuple(nodes))
        search = DivisionSearch(
            self.tenants, self.resolved, self.kinds, self.out, self.executor, self._searching, force=self.force,
            check=self.check,
        )  # fmt: skip
        if self.tenants.division != "joint":
            origin = IN_PROPORTION if self.tenants.division == "proportional" else EQUALLY
            return self._results(origin, nodes_of(self.kinds, search.by_rule(self.tenants.division)))
        chosen, by_hand = search.divisions()
        results = self._results(chosen.origin, nodes_of(self.kinds, chosen.counts))
        by_hand.sort(key=lambda one: (results.value(one), -results.price_of(one)), reverse=True)
        return replace(results, by_hand=tuple(by_hand), bound=search.bound())

    def _searching(self, share: float, what: str) -> None:
        """Show what the search simulates; how much of it there will be is not known."""
        self.on_progress(0.0, what)

    def _results(self, origin: str, nodes: tuple[tuple[str, ...], ...]) -> TenantResults:
        tasks = {
            number: task_of(one, own, self.tenants, self.out, force=self.force, check=self.check, with_report=True)
            for number, (one, own) in enumerate(zip(self.tenants.tenants, nodes, strict=True))
            if own
        }
        if len(tasks) == 1:  # whose race, if any, then has all processes
            found = {number: run_part(task, self.on_progress, self.executor) for number, task in tasks.items()}
        else:
            found = run_parts(tasks, self.executor, self.on_progress)
        parts = [found.get(number, NO_NODE) for number in range(len(nodes))]
        counts = tuple(counts_of(self.kinds, own) for own in nodes)
        terms = tuple(
            one for number, pair in enumerate(zip(self.tenants.tenants, self.resolved, strict=True))
            for one in _terms(number, *pair)
        )  # fmt: skip
        chosen = Division(origin, counts, tuple(parts))
        return TenantResults(self.tenants.name, terms, self.kinds, nodes, chosen)


def _terms(part: int, tenant: Tenant, experiment: ResolvedExperiment) -> list[TenantTerms]:
    """Return the tenants that share a part, with what each brings to it."""
    each = [alone for alone, _ in each_alone(tenant, experiment)]
    stats = [one.workload_stats for one in each]
    tokens = [(one.offered_rps or 1.0) * (one.mean_prompt_tokens + one.mean_output_tokens) for one in stats]
    return [
        TenantTerms(
            one.name, experiment.fleet.model.name, alone.slo, one.weight, one.priority, part, tenant.class_of(one),
            brought / math.fsum(tokens),
        )
        for one, alone, brought in zip(tenant.members, each, tokens, strict=True)
    ]  # fmt: skip
