"""Linear, quadratic and mixed-integer programs, solved by HiGHS.

Every solve uses one thread and a fixed seed, so that results are reproducible, also with the limits ``max_nodes`` and
``relative_gap``, but not with a time limit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import highspy
import numpy as np

from helixsim.errors import HelixsimError

INFINITY = math.inf

MipProgress = Callable[[float, float, float], None]
"""Callback of mixed-integer solves: (seconds, best objective, bound)."""


class SolverError(HelixsimError):
    """HiGHS rejected a program or failed, which is a bug of helixsim or HiGHS (exit code 1)."""


class SolveStatus(StrEnum):
    """Status at the end of a solve."""

    OPTIMAL = "optimal"
    INFEASIBLE = "infeasible"
    UNBOUNDED = "unbounded"
    UNBOUNDED_OR_INFEASIBLE = "unbounded or infeasible"
    TIME_LIMIT = "time limit"
    SOLUTION_LIMIT = "node or solution limit"
    TARGET = "objective target reached"
    INTERRUPTED = "interrupted"
    FAILED = "failed"


_STATUS = {
    highspy.HighsModelStatus.kOptimal: SolveStatus.OPTIMAL,
    highspy.HighsModelStatus.kModelEmpty: SolveStatus.OPTIMAL,
    highspy.HighsModelStatus.kInfeasible: SolveStatus.INFEASIBLE,
    highspy.HighsModelStatus.kUnbounded: SolveStatus.UNBOUNDED,
    highspy.HighsModelStatus.kUnboundedOrInfeasible: SolveStatus.UNBOUNDED_OR_INFEASIBLE,
    highspy.HighsModelStatus.kTimeLimit: SolveStatus.TIME_LIMIT,
    highspy.HighsModelStatus.kIterationLimit: SolveStatus.SOLUTION_LIMIT,
    highspy.HighsModelStatus.kSolutionLimit: SolveStatus.SOLUTION_LIMIT,
    highspy.HighsModelStatus.kObjectiveBound: SolveStatus.TARGET,
    highspy.HighsModelStatus.kObjectiveTarget: SolveStatus.TARGET,
    highspy.HighsModelStatus.kInterrupt: SolveStatus.INTERRUPTED,
}

_MOST_QP_ITERATIONS = 10_000
"""The quadratic solver of HiGHS may cycle; solves that terminate take a few hundred iterations."""

_FEASIBLE = 2
"""Primal solution status of HiGHS for a feasible point."""


@dataclass
class Program:
    """A program under construction, with columns and rows in the order of their addition."""

    maximise: bool = False
    _objective: list[float] = field(default_factory=list)
    _curvature: list[float] = field(default_factory=list)
    _lower: list[float] = field(default_factory=list)
    _upper: list[float] = field(default_factory=list)
    _integer: list[bool] = field(default_factory=list)
    _row_lower: list[float] = field(default_factory=list)
    _row_upper: list[float] = field(default_factory=list)
    _row_start: list[int] = field(default_factory=lambda: [0])
    _row_index: list[int] = field(default_factory=list)
    _row_value: list[float] = field(default_factory=list)

    @property
    def num_columns(self) -> int:
        """Number of columns."""
        return len(self._objective)

    @property
    def has_integers(self) -> bool:
        """Whether any column is integer."""
        return any(self._integer)

    def column(
        self,
        objective: float = 0.0,
        lower: float = 0.0,
        upper: float = INFINITY,
        *,
        integer: bool = False,
        curvature: float = 0.0,
    ) -> int:
        """Add a variable x with objective ``objective * x + curvature / 2 * x**2`` and return its index."""
        self._objective.append(objective)
        self._curvature.append(curvature)
        self._lower.append(lower)
        self._upper.append(upper)
        self._integer.append(integer)
        return len(self._objective) - 1

    def row(
        self, entries: Mapping[int, float] | Iterable[int], lower: float = -INFINITY, upper: float = INFINITY
    ) -> int:
        """Add ``lower <= sum of coefficient * column <= upper`` and return its index.

        ``entries`` maps columns to coefficients, or lists columns with coefficient one.
        """
        pairs = entries if isinstance(entries, Mapping) else dict.fromkeys(entries, 1.0)
        self._row_index.extend(pairs.keys())
        self._row_value.extend(pairs.values())
        self._row_start.append(len(self._row_index))
        self._row_lower.append(lower)
        self._row_upper.append(upper)
        return len(self._row_lower) - 1

    def _to_highs(self) -> highspy.HighsLp:
        lp = highspy.HighsLp()
        lp.num_col_, lp.num_row_ = self.num_columns, len(self._row_lower)
        lp.sense_ = highspy.ObjSense.kMaximize if self.maximise else highspy.ObjSense.kMinimize
        lp.col_cost_ = np.array(self._objective, dtype=float)
        lp.col_lower_, lp.col_upper_ = _bounds(self._lower), _bounds(self._upper)
        lp.row_lower_, lp.row_upper_ = _bounds(self._row_lower), _bounds(self._row_upper)
        lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        lp.a_matrix_.start_ = np.array(self._row_start, dtype=np.int32)
        lp.a_matrix_.index_ = np.array(self._row_index, dtype=np.int32)
        lp.a_matrix_.value_ = np.array(self._row_value, dtype=float)
        if self.has_integers:
            kinds = (highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger)
            lp.integrality_ = [kinds[integer] for integer in self._integer]
        return lp

    def _hessian(self) -> highspy.HighsHessian | None:
        if not any(self._curvature):
            return None
        hessian = highspy.HighsHessian()
        size = self.num_columns
        hessian.dim_, hessian.format_ = size, highspy.HessianFormat.kTriangular
        hessian.start_ = np.arange(size + 1, dtype=np.int32)
        hessian.index_ = np.arange(size, dtype=np.int32)
        hessian.value_ = np.array(self._curvature, dtype=float)
        return hessian


@dataclass(frozen=True)
class Solution:
    """Result of a solve.

    ``values`` is empty without a feasible point; ``row_duals`` is empty unless a continuous program was solved to
    optimality. ``bound`` is the best proven bound on the objective. ``start_accepted`` is None without a start.
    """

    status: SolveStatus
    objective: float
    bound: float
    values: tuple[float, ...]
    row_duals: tuple[float, ...]
    nodes: int
    start_accepted: bool | None = None

    @property
    def is_feasible(self) -> bool:
        """Whether there is a feasible point."""
        return bool(self.values)

    def optimum(self, what: str) -> Solution | None:
        """Return the solution if it is optimal, None if the program, which must be bounded, is infeasible.

        Raises
        ------
        SolverError
            If the solve ended with any other status, which implies nothing about the program.
        """
        if self.status is SolveStatus.OPTIMAL:
            return self
        if self.status in {SolveStatus.INFEASIBLE, SolveStatus.UNBOUNDED_OR_INFEASIBLE}:
            return None
        raise SolverError(f"{what}: HiGHS ended with {self.status}")


def solve(
    program: Program,
    *,
    time_limit_s: float = INFINITY,
    max_nodes: int | None = None,
    relative_gap: float = 1e-6,
    target: float | None = None,
    presolve: bool = True,
    start: Mapping[int, float] | None = None,
    progress: MipProgress | None = None,
    is_cancelled: Callable[[], bool] | None = None,
) -> Solution:
    """Solve a program.

    Parameters
    ----------
    time_limit_s, max_nodes, relative_gap
        Limits of mixed-integer solves; the best point found is returned.
    target
        Stop at the first point at least as good as this objective.
    presolve
        Use presolve, which can take longer than the solve for programs with many columns and few rows.
    start
        Column -> value, for some or all integer columns; HiGHS completes the others. An infeasible start is not an
        error, see ``Solution.start_accepted``.
    progress
        Receives (seconds, objective, bound) every few seconds; infinite if unknown.
    is_cancelled
        Polled regularly; the solve stops when it returns True.

    Raises
    ------
    SolverError
        If HiGHS rejects the program.
    KeyboardInterrupt
        On Ctrl-C during a mixed-integer solve, after HiGHS has stopped cleanly.
    """
    highs: Any = _SilentHighs()  # type: ignore[no-untyped-call]
    options: dict[str, Any] = {
        "output_flag": False, "threads": 1, "random_seed": 1, "time_limit": time_limit_s, "mip_rel_gap": relative_gap,
        "qp_iteration_limit": _MOST_QP_ITERATIONS,
    }  # fmt: skip
    if max_nodes is not None:
        options["mip_max_nodes"] = max_nodes
    if target is not None:
        options["objective_target"] = target
    if not presolve:
        options["presolve"] = "off"
    for name, value in options.items():
        _accept(highs.setOptionValue(name, value), f"option {name}={value}")
    _accept(highs.passModel(program._to_highs()), "the model")
    hessian = program._hessian()
    if hessian is not None:
        _accept(highs.passHessian(hessian), "the quadratic objective")
    if start is not None:
        index = np.array(list(start.keys()), dtype=np.int32)
        _accept(highs.setSolution(len(start), index, np.array(list(start.values()), dtype=float)), "the start")
    watch = _Watch(program, start, progress, is_cancelled)
    if program.has_integers:
        watch.subscribe(highs)
    run_status = highs.run()
    if watch.error is not None:
        raise watch.error
    if run_status == highspy.HighsStatus.kError:
        raise SolverError(f"HiGHS failed: {highs.modelStatusToString(highs.getModelStatus())}")
    return _solution(program, highs, watch.start_accepted)


def _solution(program: Program, highs: highspy.Highs, start_accepted: bool | None) -> Solution:
    info, found = highs.getInfo(), highs.getSolution()
    status = _STATUS.get(highs.getModelStatus(), SolveStatus.FAILED)
    feasible = info.primal_solution_status == _FEASIBLE and status is not SolveStatus.FAILED
    integer = program.has_integers
    worst = -INFINITY if program.maximise else INFINITY
    objective = float(info.objective_function_value) if feasible else worst
    bound = float(info.mip_dual_bound) if integer else objective if status is SolveStatus.OPTIMAL else -worst
    duals = () if integer or status is not SolveStatus.OPTIMAL else tuple(map(float, found.row_dual))
    return Solution(
        status=status,
        objective=objective,
        bound=bound,
        values=tuple(map(float, found.col_value)) if feasible else (),
        row_duals=duals,
        nodes=int(info.mip_node_count) if integer else 0,
        start_accepted=start_accepted,
    )


class _SilentHighs(highspy.Highs):
    """HiGHS with its log disabled before callbacks are set up, where 1.16 prints a banner."""

    def enableCallbacks(self) -> None:  # noqa: N802 - HiGHS's name
        self.setOptionValue("output_flag", False)
        super().enableCallbacks()  # type: ignore[no-untyped-call]


class _Watch:
    """Callbacks of a solve. Exceptions in them are stored, and raised after HiGHS has stopped."""

    def __init__(
        self,
        program: Program,
        start: Mapping[int, float] | None,
        progress: MipProgress | None,
        is_cancelled: Callable[[], bool] | None,
    ) -> None:
        self.error: BaseException | None = None
        self.start_accepted: bool | None = None if start is None else False
        self._start = start
        self._sense = -1.0 if program.maximise else 1.0
        self._progress = progress
        self._is_cancelled = is_cancelled
        self._has_incumbent = False

    def subscribe(self, highs: highspy.Highs) -> None:
        if self._start is not None:
            highs.cbMipImprovingSolution.subscribe(self._guarded(self._first_incumbent))
        if self._progress is not None:
            highs.cbMipImprovingSolution.subscribe(self._guarded(self._report))
            highs.cbMipLogging.subscribe(self._guarded(self._report))
        highs.cbMipInterrupt.subscribe(self._guarded(self._check))

    def _guarded(self, callback: Callable[[Any], None]) -> Callable[[Any], None]:
        def call(event: Any) -> None:
            try:
                if self.error is None:
                    callback(event)
            except (Exception, KeyboardInterrupt) as error:
                self.error = error
            if self.error is not None:
                event.interrupt()

        return call

    def _first_incumbent(self, event: Any) -> None:
        """Compare the first incumbent with the start, as HiGHS ignores infeasible starts silently."""
        if self._has_incumbent or self._start is None:
            return
        self._has_incumbent = True
        values = event.data_out.mip_solution
        self.start_accepted = all(abs(values[column] - value) < 1e-6 for column, value in self._start.items())

    def _report(self, event: Any) -> None:
        if self._progress is not None:
            data = event.data_out
            self._progress(float(data.running_time), _finite(data.mip_primal_bound), _finite(data.mip_dual_bound))

    def _check(self, event: Any) -> None:
        if self._is_cancelled is not None and self._is_cancelled():
            event.interrupt()


def _finite(value: float) -> float:
    return math.copysign(INFINITY, value) if abs(value) >= highspy.kHighsInf else float(value)


def _bounds(values: list[float]) -> np.ndarray[Any, np.dtype[np.float64]]:
    bounded: np.ndarray[Any, np.dtype[np.float64]] = np.clip(np.array(values), -highspy.kHighsInf, highspy.kHighsInf)
    return bounded


def _accept(status: highspy.HighsStatus, what: str) -> None:
    if status == highspy.HighsStatus.kError:
        raise SolverError(f"HiGHS refused {what}")
