"""The one seam to HiGHS: a Pyomo model becomes a standard form, the standard form is handed over as sparse arrays.

The standard form is min or max c'x + c0 subject to row_lower <= A x <= row_upper, col_lower <= x <= col_upper, some x
integer. It is extracted here rather than by Pyomo's own compiler because that one imports scipy, whose import alone
costs more than most of our solves. For the same reason nothing imports ``pyomo.environ``.

Times are taken with ``perf_counter``: HiGHS' own run time accumulates over solves.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf, nan
from time import perf_counter
from typing import Any, Literal

import highspy
import numpy as np
from pyomo.core import Constraint, Objective, Var, maximize
from pyomo.repn import generate_standard_repn

from formulations.solution import Status
from formulations.table import BoolArray, FloatArray, IntArray
from formulations.tolerances import GAP_SLACK, SOLVER_FEASIBILITY

Progress = Callable[[float, float, float], None]
"""called with (incumbent, bound, seconds); nan where there is none yet"""

_IIS_STRATEGY = 6
"""light and full reduction from the LP: the strategies that measured well; 0 to 3 return nothing or too much"""


@dataclass(frozen=True)
class StandardForm:
    """A mixed-integer linear program as arrays, the matrix by columns.

    Attributes:
        sense: direction of the objective.
        cost: objective coefficients, (n,).
        offset: constant of the objective.
        col_lower: lower bounds, (n,).
        col_upper: upper bounds, (n,).
        integer: which columns are integer, (n,).
        row_lower: lower bounds of the rows, (m,).
        row_upper: upper bounds of the rows, (m,).
        start: first entry of each column and the total, (n + 1,).
        index: row of each entry, (nnz,).
        value: coefficient of each entry, (nnz,).
        variables: the Pyomo variables of the columns, or empty.
        constraints: the Pyomo constraints of the rows, or empty.
    """

    sense: Literal["maximize", "minimize"]
    cost: FloatArray
    offset: float
    col_lower: FloatArray
    col_upper: FloatArray
    integer: BoolArray
    row_lower: FloatArray
    row_upper: FloatArray
    start: IntArray
    index: IntArray
    value: FloatArray
    variables: tuple[Any, ...] = ()
    constraints: tuple[Any, ...] = ()

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return len(self.row_lower), len(self.cost)

    def columns_of(self, variables: list[Any]) -> IntArray:
        """Return the columns of Pyomo variables."""
        position = {id(variable): column for column, variable in enumerate(self.variables)}
        return np.array([position[id(variable)] for variable in variables], dtype=np.int64)


@dataclass(frozen=True)
class SolveResult:
    """What HiGHS returned for one solve.

    Attributes:
        status: of the solve; optimal iff the gap is at most the requested one.
        incumbent: objective of `values`; nan without.
        bound: dual bound, never on the wrong side of the incumbent.
        gap: |bound - incumbent| / |incumbent|.
        seconds: wall clock of this solve.
        values: the solution by column, empty without one; integers are rounded.
        row_activity: A x, by row (after rounding).
        row_dual: change of the objective per unit of a row's binding bound (LP only, else empty).
    """

    status: Status
    incumbent: float
    bound: float
    gap: float
    seconds: float
    values: FloatArray
    row_activity: FloatArray
    row_dual: FloatArray


def from_triplets(
    sense: Literal["maximize", "minimize"],
    cost: FloatArray,
    col_bounds: tuple[FloatArray, FloatArray],
    row_bounds: tuple[FloatArray, FloatArray],
    triplets: tuple[IntArray, IntArray, FloatArray],
    *,
    integer: BoolArray | None = None,
    offset: float = 0.0,
    variables: tuple[Any, ...] = (),
    constraints: tuple[Any, ...] = (),
) -> StandardForm:
    """Return the standard form of (rows, columns, values) triplets without duplicates."""
    rows, columns, values = triplets
    order = np.lexsort((rows, columns))
    counts = np.bincount(columns, minlength=len(cost))
    return StandardForm(
        sense=sense,
        cost=cost,
        offset=offset,
        col_lower=col_bounds[0],
        col_upper=col_bounds[1],
        integer=np.zeros(len(cost), dtype=np.bool_) if integer is None else integer,
        row_lower=row_bounds[0],
        row_upper=row_bounds[1],
        start=np.concatenate(([0], np.cumsum(counts))).astype(np.int64),
        index=rows[order],
        value=values[order],
        variables=variables,
        constraints=constraints,
    )


def extract(model: Any) -> StandardForm:
    """Return the standard form of a linear Pyomo model with one active objective.

    Raises:
        ValueError: a nonlinear row or objective, or not exactly one objective.
    """
    variables = tuple(model.component_data_objects(Var, active=True))
    position = {id(variable): column for column, variable in enumerate(variables)}
    rows: list[int] = []
    columns: list[int] = []
    values: list[float] = []
    lower: list[float] = []
    upper: list[float] = []
    constraints = tuple(model.component_data_objects(Constraint, active=True))
    for row, constraint in enumerate(constraints):
        repn = generate_standard_repn(constraint.body, compute_values=True)
        if not repn.is_linear():
            raise ValueError(f"row {constraint.name} is not linear")
        rows.extend([row] * len(repn.linear_vars))
        columns.extend([position[id(variable)] for variable in repn.linear_vars])
        values.extend(repn.linear_coefs)
        lower.append(-inf if constraint.lb is None else constraint.lb - repn.constant)
        upper.append(inf if constraint.ub is None else constraint.ub - repn.constant)
    objectives = list(model.component_data_objects(Objective, active=True))
    if len(objectives) != 1:
        raise ValueError(f"a model has exactly one objective, not {len(objectives)}")
    repn = generate_standard_repn(objectives[0].expr, compute_values=True)
    if not repn.is_linear():
        raise ValueError("the objective is not linear")
    cost = np.zeros(len(variables))
    for variable, coefficient in zip(repn.linear_vars, repn.linear_coefs, strict=True):
        cost[position[id(variable)]] += coefficient
    col_lower = np.array([-inf if v.lb is None else v.lb for v in variables], dtype=np.float64)
    col_upper = np.array([inf if v.ub is None else v.ub for v in variables], dtype=np.float64)
    return from_triplets(
        "maximize" if objectives[0].sense == maximize else "minimize",
        cost,
        (col_lower, col_upper),
        (np.array(lower, dtype=np.float64), np.array(upper, dtype=np.float64)),
        (np.array(rows, dtype=np.int64), np.array(columns, dtype=np.int64), np.array(values, dtype=np.float64)),
        integer=np.array([not v.is_continuous() for v in variables], dtype=np.bool_),
        offset=float(repn.constant),
        variables=variables,
        constraints=constraints,
    )


def solve(
    form: StandardForm,
    *,
    gap: float = 1e-4,
    time_limit_s: float | None = None,
    start: FloatArray | Mapping[int, float] | None = None,
    threads: int = 1,
    progress: Progress | None = None,
) -> SolveResult:
    """Solve a mixed-integer program.

    Args:
        form: the program.
        gap: relative gap at which to stop.
        time_limit_s: wall-clock limit; None for none.
        start: values by column (nan or absent: unknown) of a solution to begin with; integers alone are enough.
        threads: of HiGHS.
        progress: called at every improving solution and at every log line of the search.

    Returns:
        The result; an infeasible program is a status, not an exception.
    """
    began = perf_counter()
    highs = _load(form, integer=True, threads=threads)
    highs.setOptionValue("mip_rel_gap", gap)
    highs.setOptionValue("mip_abs_gap", 0.0)
    if time_limit_s is not None:
        highs.setOptionValue("time_limit", float(time_limit_s))
    if start is not None:
        _set_start(highs, form, start)
    if progress is not None:
        _report(highs, progress, began)
    highs.run()
    return _result(highs, form, gap, began)


def relax(form: StandardForm, *, threads: int = 1) -> SolveResult:
    """Solve the linear relaxation; the result carries row duals and activities."""
    began = perf_counter()
    highs = _load(form, integer=False, threads=threads)
    highs.run()
    return _result(highs, form, None, began)


def irreducible_infeasible_set(form: StandardForm) -> tuple[str, ...]:
    """Return the names of rows of the linear relaxation that cannot hold together, none of which can be left out.

    Empty where the relaxation is feasible, which an infeasible integer program may well have. Rows without a Pyomo
    constraint are called by number. Bounds of columns that take part are not named.
    """
    highs = _load(form, integer=False, threads=1)
    highs.setOptionValue("iis_strategy", _IIS_STRATEGY)
    highs.run()
    if highs.getModelStatus() not in (
        highspy.HighsModelStatus.kInfeasible,
        highspy.HighsModelStatus.kUnboundedOrInfeasible,
    ):
        return ()
    _, iis = highs.getIis()
    names = [constraint.name for constraint in form.constraints]
    return tuple(names[row] if names else str(row) for row in sorted(iis.row_index_))


def _load(form: StandardForm, *, integer: bool, threads: int) -> Any:
    highs: Any = highspy.Highs()  # type: ignore[no-untyped-call]  # the wheel ships without annotations
    highs.setOptionValue("output_flag", False)
    highs.setOptionValue("threads", threads)
    for name in ("primal_feasibility_tolerance", "dual_feasibility_tolerance", "mip_feasibility_tolerance"):
        highs.setOptionValue(name, SOLVER_FEASIBILITY)
    lp = highspy.HighsLp()
    lp.num_row_, lp.num_col_ = form.shape
    lp.sense_ = highspy.ObjSense.kMaximize if form.sense == "maximize" else highspy.ObjSense.kMinimize
    lp.offset_ = form.offset
    lp.col_cost_ = form.cost
    lp.col_lower_ = form.col_lower
    lp.col_upper_ = form.col_upper
    lp.row_lower_ = form.row_lower
    lp.row_upper_ = form.row_upper
    lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    lp.a_matrix_.num_row_, lp.a_matrix_.num_col_ = form.shape
    lp.a_matrix_.start_ = form.start.astype(np.int32)
    lp.a_matrix_.index_ = form.index.astype(np.int32)
    lp.a_matrix_.value_ = form.value
    if integer:
        kinds = (highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger)
        lp.integrality_ = [kinds[flag] for flag in form.integer.astype(int).tolist()]
    if highs.passModel(lp) == highspy.HighsStatus.kError:
        raise ValueError("HiGHS refuses the model")
    return highs


def _set_start(highs: Any, form: StandardForm, start: FloatArray | Mapping[int, float]) -> None:
    if isinstance(start, Mapping):
        columns = np.fromiter(start.keys(), dtype=np.int32, count=len(start))
        values = np.fromiter(start.values(), dtype=np.float64, count=len(start))
    else:
        columns = np.flatnonzero(~np.isnan(start)).astype(np.int32)
        values = start[columns]
    if len(columns) and highs.setSolution(len(columns), columns, values) == highspy.HighsStatus.kError:
        raise ValueError(f"HiGHS refuses a start of {len(columns)} values for {form.shape[1]} columns")


def _report(highs: Any, progress: Progress, began: float) -> None:
    def tell(event: Any) -> None:
        incumbent, bound = event.data_out.mip_primal_bound, event.data_out.mip_dual_bound
        progress(
            incumbent if np.isfinite(incumbent) else nan,
            bound if np.isfinite(bound) else nan,
            perf_counter() - began,
        )

    highs.cbMipImprovingSolution += tell
    highs.cbMipLogging += tell


def _result(highs: Any, form: StandardForm, gap: float | None, began: float) -> SolveResult:
    """Read the outcome; `gap` None for a linear program."""
    outcome = highs.getModelStatus()
    states = highspy.HighsModelStatus
    if outcome == states.kUnboundedOrInfeasible:
        # Presolve cannot tell the two apart; without it the simplex method can.
        highs.setOptionValue("presolve", "off")
        highs.run()
        outcome = highs.getModelStatus()
    info = highs.getInfo()
    empty = np.zeros(0)
    seconds = perf_counter() - began
    toward_worse = -inf if form.sense == "maximize" else inf
    # HiGHS does not look at the rows of a model without columns.
    contradiction = outcome == states.kModelEmpty and bool(np.any((form.row_lower > 0) | (form.row_upper < 0)))
    if outcome == states.kInfeasible or contradiction:
        return SolveResult("infeasible", nan, toward_worse, inf, seconds, empty, empty, empty)
    if outcome in (states.kUnbounded, states.kUnboundedOrInfeasible):
        return SolveResult("unbounded", nan, -toward_worse, inf, seconds, empty, empty, empty)
    bound = float(info.mip_dual_bound) if gap is not None else float(info.objective_function_value)
    if info.primal_solution_status != highspy.SolutionStatus.kSolutionStatusFeasible:
        return SolveResult("time_limit", nan, bound, inf, seconds, empty, empty, empty)
    solution = highs.getSolution()
    values = np.array(solution.col_value, dtype=np.float64)
    activity = np.array(solution.row_value, dtype=np.float64)
    dual = empty
    if gap is not None and np.any(form.integer):
        values[form.integer] = np.round(values[form.integer])
        owner = np.repeat(np.arange(len(values)), np.diff(form.start))
        activity = np.bincount(form.index, form.value * values[owner], form.shape[0]).astype(np.float64)
    elif gap is None:
        dual = np.array(solution.row_dual, dtype=np.float64)
    incumbent = float(form.cost @ values) + form.offset
    if gap is None or not np.any(form.integer):
        bound = incumbent
    bound, relative = safe_bound(form.sense, incumbent, bound)
    reached = outcome in (states.kOptimal, states.kModelEmpty) and relative <= (gap or 0.0) + GAP_SLACK
    return SolveResult(
        "optimal" if reached else "feasible", incumbent, bound, relative, seconds, values, activity, dual
    )


def safe_bound(sense: Literal["maximize", "minimize"], incumbent: float, bound: float) -> tuple[float, float]:
    """Return the bound moved to the incumbent where it lies on its wrong side, and the relative gap."""
    if np.isnan(bound):
        bound = inf if sense == "maximize" else -inf
    bound = max(bound, incumbent) if sense == "maximize" else min(bound, incumbent)
    if bound == incumbent:
        return bound, 0.0
    return bound, abs(bound - incumbent) / abs(incumbent) if incumbent else inf
