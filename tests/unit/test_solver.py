"""helixsim.solver: small programs whose answers are known by hand."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest

from helixsim import solver
from helixsim.solver import Program, SolveStatus


def knapsack(weights: tuple[float, ...], values: tuple[float, ...], room: float) -> Program:
    program = Program(maximise=True)
    columns = [program.column(value, 0.0, 1.0, integer=True) for value in values]
    program.row(dict(zip(columns, weights, strict=True)), upper=room)
    return program


def test_linear_program_has_strong_duality() -> None:
    program = Program()
    x, y = program.column(2.0), program.column(3.0)
    program.row({x: 1.0, y: 1.0}, lower=4.0)
    program.row({x: 1.0, y: 3.0}, lower=6.0)
    solution = solver.solve(program)
    assert solution.status is SolveStatus.OPTIMAL
    assert solution.objective == pytest.approx(9.0)
    assert solution.values == pytest.approx((3.0, 1.0))
    assert 4.0 * solution.row_duals[0] + 6.0 * solution.row_duals[1] == pytest.approx(solution.objective)


@pytest.mark.parametrize("presolve", [True, False])
def test_mixed_integer_optimum_and_bound_meet(presolve: bool) -> None:
    solution = solver.solve(knapsack((5, 4, 3, 4), (10, 6, 4, 7), 10), presolve=presolve)
    assert solution.status is SolveStatus.OPTIMAL
    assert solution.objective == pytest.approx(17.0)
    assert solution.bound == pytest.approx(17.0)
    assert solution.row_duals == ()


def test_quadratic_program_shares_in_inverse_proportion_to_curvature() -> None:
    program = Program()
    columns = [program.column(curvature=curvature) for curvature in (1.0, 2.0, 4.0)]
    program.row(columns, 7.0, 7.0)
    assert solver.solve(program).values == pytest.approx((4.0, 2.0, 1.0), rel=1e-5)


@pytest.mark.parametrize(("chosen", "is_accepted"), [((1, 1, 0, 0), True), ((1, 1, 1, 0), False)])
def test_start_is_reported_as_accepted_only_if_it_is_feasible(chosen: tuple[int, ...], is_accepted: bool) -> None:
    start = {column: float(value) for column, value in enumerate(chosen)}
    solution = solver.solve(knapsack((5, 4, 3, 4), (10, 6, 4, 7), 10), start=start)
    assert solution.start_accepted is is_accepted
    assert solution.objective == pytest.approx(17.0)


def test_infeasible_program_has_no_values() -> None:
    program = knapsack((5, 4), (1, 1), 10)
    program.row([0], lower=2.0)
    solution = solver.solve(program)
    assert solution.status is SolveStatus.INFEASIBLE
    assert not solution.is_feasible
    assert solution.objective == -math.inf


def test_unbounded_program_is_named_so() -> None:
    program = Program(maximise=True)
    program.column(1.0)
    assert solver.solve(program).status in {SolveStatus.UNBOUNDED, SolveStatus.UNBOUNDED_OR_INFEASIBLE}


def hard_program() -> Program:
    """Market split: an equality knapsack that is not solved at the root."""
    program = Program()
    weights = [[(17 * (i + 3) * (j + 5) ** 2) % 97 for j in range(30)] for i in range(4)]
    columns = [program.column(0.0, 0.0, 1.0, integer=True) for _ in range(30)]
    for row in weights:
        over, under = program.column(1.0), program.column(1.0)
        terms = {column: float(weight) for column, weight in zip(columns, row, strict=True)}
        program.row(terms | {over: -1.0, under: 1.0}, sum(row) // 2, sum(row) // 2)
    return program


def test_cancelled_solve_stops() -> None:
    asked: list[int] = []

    def cancel() -> bool:
        asked.append(1)
        return True

    solution = solver.solve(hard_program(), is_cancelled=cancel, time_limit_s=20.0)
    assert asked
    assert solution.status is SolveStatus.INTERRUPTED


def test_exception_in_progress_reaches_the_caller() -> None:
    def fail(_seconds: float, _objective: float, _bound: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        solver.solve(hard_program(), progress=fail, time_limit_s=20.0)


def test_node_limit_is_a_limit() -> None:
    solution = solver.solve(hard_program(), max_nodes=1, time_limit_s=20.0)
    assert solution.status in {SolveStatus.SOLUTION_LIMIT, SolveStatus.OPTIMAL}
    assert solution.bound <= solution.objective + 1e-9


def test_same_program_gives_the_same_values() -> None:
    first, second = (solver.solve(hard_program(), max_nodes=50) for _ in range(2))
    assert first == second


def test_the_library_prints_nothing() -> None:
    """In a process of its own: HiGHS prints its banner once."""
    code = "from helixsim.solver import Program, solve; program = Program(); program.column(1.0); solve(program)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=60)
    assert (done.stdout, done.stderr) == (b"", b"")
