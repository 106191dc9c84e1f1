"""The answer: what is deployed, what it reaches, how good that is and why."""

from collections import Counter
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, model_validator

from specs.base import Spec
from specs.errors import SpecError
from specs.objective import Objective
from specs.quantities import (
    AS_REAL,
    AS_WHOLE,
    Count,
    CountOrZero,
    MillisecondsOrZero,
    Name,
    NonNegative,
    Real,
    TokensOrZero,
)
from specs.scenario import Scenario, resolve_pool
from specs.service import Mode

PLAN_SCHEMA: Literal["cleave.plan/1"] = "cleave.plan/1"
RELATIVE_TOLERANCE = 1e-6
"""Agreement asked of figures that are derived from one another: that of the solver's feasibility tolerance."""


class Status(StrEnum):
    """Outcome of planning."""

    OPTIMAL = "optimal"
    FEASIBLE = "feasible"
    INFEASIBLE = "infeasible"
    TIME_LIMIT = "time_limit"


class Role(StrEnum):
    """What a replica does."""

    MIXED = "mixed"
    PREFILL = "prefill"
    DECODE = "decode"
    ATTENTION = "attention"
    FFN = "ffn"


UNIT_ROLES = frozenset({Role.ATTENTION, Role.FFN})
"""Roles that work in lockstep, as AFD units."""

_ROLE_SETS: dict[Mode, tuple[frozenset[Role], ...]] = {
    Mode.AGGREGATED: (frozenset({Role.MIXED}), frozenset({Role.PREFILL}), frozenset({Role.DECODE})),
    Mode.PREFILL_DECODE: (
        frozenset({Role.PREFILL, Role.DECODE}),
        frozenset({Role.PREFILL}),
        frozenset({Role.DECODE}),
    ),
    Mode.AFD: (UNIT_ROLES,),
    Mode.PREFILL_DECODE_AFD: (UNIT_ROLES | {Role.PREFILL}, UNIT_ROLES, frozenset({Role.PREFILL})),
}
"""Roles of a deployment, by mode: those of both phases, then those of one phase."""


class PoolPlan(Spec):
    """Replicas of one layout on one GPU pool. A replica is one worker: one engine instance."""

    role: Role
    gpu_pool: Name
    replicas: Count
    """In total, over all AFD units."""
    gpus_per_replica: Count
    tp: Count = 1
    dp: Count = 1
    """Attention data-parallel ranks inside one replica."""
    ep: Count = 1
    moe_tp: Count = 1
    pp: Count = 1
    expert_slots: CountOrZero = 0
    """Physical experts of a layer over the replica, redundant ones included; 0 for a dense model."""
    batch: Count
    """Requests in flight per replica, over all its DP ranks and micro-batches."""
    chunk_tokens: TokensOrZero = 0
    """New tokens per step and replica; 0 where the role has no prefill."""
    microbatches: Annotated[int, Field(strict=True, ge=1, le=64), AS_WHOLE] = 1
    utilisation: Annotated[float, Field(strict=True, gt=0, le=1), AS_REAL]
    """Prefill: share of time that the pool computes. Other roles: mean requests in flight over `batch`."""
    unit: Name | None = None
    """Name of the AFD unit that the pool belongs to."""
    units: Count | None = None
    """How many such units there are."""

    @model_validator(mode="after")
    def _check(self) -> "PoolPlan":
        attention_gpus, expert_gpus = self.tp * self.dp, self.ep * self.moe_tp
        if self.role is Role.FFN:
            expected, rule = expert_gpus * self.pp, "ep x moe_tp x pp"
        else:
            expected, rule = attention_gpus * self.pp, "tp x dp x pp"
        if self.gpus_per_replica != expected:
            raise SpecError(
                f"must be {rule} = {expected} for role {self.role.value}, got {self.gpus_per_replica}",
                field="gpus_per_replica",
            )
        if self.role not in UNIT_ROLES and expert_gpus != attention_gpus:
            raise SpecError(
                f"ep x moe_tp must be tp x dp = {attention_gpus} for role {self.role.value}, got {expert_gpus}",
                field="ep",
            )
        self._check_unit()
        return self

    def _check_unit(self) -> None:
        in_unit = self.role in UNIT_ROLES
        for field, value in (("unit", self.unit), ("units", self.units)):
            if (value is not None) != in_unit:
                raise SpecError(
                    f"{'is required' if in_unit else 'must be left out'} for role {self.role.value}", field=field
                )
        if self.units is None:
            return
        if self.replicas % self.units:
            raise SpecError(f"must be a multiple of units = {self.units}, got {self.replicas}", field="replicas")
        if self.role is Role.FFN and self.replicas != self.units:
            raise SpecError(
                f"must be units = {self.units} (one ffn replica per unit), got {self.replicas}", field="replicas"
            )

    @property
    def gpus(self) -> int:
        """GPUs of the pool."""
        return self.replicas * self.gpus_per_replica


class Deployment(Spec):
    """One way in which one service is served during one period."""

    mode: Mode
    period: Annotated[int, Field(strict=True, ge=0, le=100_000), AS_WHOLE] = 0
    share: Annotated[float, Field(strict=True, gt=0, le=1 + RELATIVE_TOLERANCE), AS_REAL]
    """Share of the service's requests in that period."""
    throughput_tok_s: NonNegative
    """Output tokens/s."""
    ttft_ms: MillisecondsOrZero | None = None
    """At the SLO's statistic; None where the phase has none."""
    tpot_ms: MillisecondsOrZero | None = None
    """At the SLO's statistic; None where the phase, or one output token, has none."""
    binding: tuple[str, ...] = ()
    """What keeps it from doing more, in words."""
    pools: tuple[PoolPlan, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> "Deployment":
        roles = {pool.role for pool in self.pools}
        if roles not in _ROLE_SETS[self.mode]:
            accepted = " or ".join(", ".join(sorted(role.value for role in s)) for s in _ROLE_SETS[self.mode])
            raise SpecError(
                f"mode {self.mode.value} has the roles {accepted}; got {', '.join(sorted(r.value for r in roles))}",
                field="pools",
            )
        members: dict[str, list[PoolPlan]] = {}
        for pool in self.pools:
            if pool.unit is not None:
                members.setdefault(pool.unit, []).append(pool)
        for unit, pools in members.items():
            if len({pool.units for pool in pools}) > 1:
                raise SpecError(f"the pools of unit {unit!r} must agree on units", field="pools")
            if Counter(pool.role for pool in pools)[Role.FFN] != 1 or len(pools) < 2:
                raise SpecError(f"unit {unit!r} must have attention and exactly one ffn pool", field="pools")
        return self


class ServicePlan(Spec):
    """What one service gets."""

    name: Name
    mode: Mode | Literal["mixed"]
    """`mixed` when its deployments are of several modes."""
    throughput_tok_s: NonNegative
    """Output tokens/s."""
    request_rate_rps: NonNegative
    ttft_ms: MillisecondsOrZero | None = None
    tpot_ms: MillisecondsOrZero | None = None
    deployments: tuple[Deployment, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> "ServicePlan":
        modes = {deployment.mode for deployment in self.deployments}
        expected = next(iter(modes)).value if len(modes) == 1 else "mixed"
        if str(self.mode) != expected:
            raise SpecError(f"must be {expected!r}, as its deployments are, got {str(self.mode)!r}", field="mode")
        shares: dict[int, float] = {}
        for deployment in self.deployments:
            shares[deployment.period] = shares.get(deployment.period, 0.0) + deployment.share
        for period, share in shares.items():
            if abs(share - 1.0) > RELATIVE_TOLERANCE:
                raise SpecError(f"the shares of period {period} must sum to 1, got {share:g}", field="deployments")
        if len(shares) == 1:
            total = sum(deployment.throughput_tok_s for deployment in self.deployments)
            _agree(self.throughput_tok_s, total, "throughput_tok_s", "that of its deployments")
        return self


class Certificate(Spec):
    """How good the plan is, proven over `space`; None throughout where there is no incumbent."""

    incumbent: Real | None = None
    """Objective value of the plan."""
    bound: Real | None = None
    """No plan of the space is better than this."""
    gap: NonNegative | None = None
    """|bound - incumbent| / |incumbent|, in total."""
    gap_solver: NonNegative | None = None
    """The part that the solver left open."""
    gap_discretisation: NonNegative | None = None
    """The part that the grid of TTFT levels left open."""
    space: dict[str, str | int | float | tuple[str | int | float, ...]] = Field(default_factory=dict)
    """What was searched: layouts, batches, chunk sizes, levels."""
    measurement_error: NonNegative | None = None
    """Relative error of the cost model against measurements, beside the gap and never in it; None: not measured."""

    @model_validator(mode="after")
    def _check(self) -> "Certificate":
        if self.incumbent is None:
            if self.gap is not None:
                raise SpecError("must be null without an incumbent", field="gap")
            return self
        if self.bound is None or self.gap is None:
            raise SpecError("is required beside an incumbent", field="bound" if self.bound is None else "gap")
        distance = abs(self.bound - self.incumbent)
        if abs(distance - self.gap * abs(self.incumbent)) > RELATIVE_TOLERANCE * max(1.0, abs(self.incumbent)):
            raise SpecError(f"must be |bound - incumbent| / |incumbent|, got {self.gap:g}", field="gap")
        return self


class OperatorKind(StrEnum):
    """Operators by what they compute or send."""

    GEMM = "gemm"
    EXPERTS = "experts"
    DECODE_ATTENTION = "decode_attention"
    PREFILL_ATTENTION = "prefill_attention"
    ELEMENTWISE = "elementwise"
    ALL_REDUCE = "all_reduce"
    EXCHANGE = "exchange"


class OperatorSource(StrEnum):
    """Where the time of an operator comes from."""

    CALIBRATION = "calibration"
    """A table that the user measured."""
    MEASURED = "measured"
    """A shipped table of this engine on this GPU type, or of a library that every engine uses."""
    BORROWED = "borrowed"
    """A shipped table of another engine, or of another GPU type with the same die."""
    ANALYTIC = "analytic"
    """Data sheet and the laws of the cost model."""


class OperatorProvenance(Spec):
    """Where the times of some operators of one kind come from."""

    operator: OperatorKind
    source: OperatorSource
    calibration: str | None = None
    """Name of the user's file."""
    gpu: str | None = None
    """GPU type that was measured, where it is not the pool's own."""
    framework: str | None = None
    """Whose kernels were measured; None where nothing was."""
    version: str | None = None
    error_p95: NonNegative | None = None
    """Relative error of the table (the worst, of several) that 95% of its source rows stay within."""
    outside: Annotated[float, Field(strict=True, ge=1), AS_REAL] = 1.0
    """Largest factor by which one of them lies outside what was measured: its shape (widths, context, ranks) or its
    size (tokens, sequences or bytes of a step); 1: all lie within."""
    count: Count
    """Distinct operators."""
    count_outside: CountOrZero = 0
    """Those that lie outside."""


class Provenance(Spec):
    """Where the figures come from."""

    kernels: str
    """Sources of the operator times in words; `operators` has them one by one."""
    operators: tuple[OperatorProvenance, ...] = ()
    """By kind and source. Of a plan: the operators of its layouts; without a plan, all that were asked for."""
    linearisation_error: NonNegative | None = None
    """Largest relative error of the piecewise-linear kernels against their source."""
    formulation: str | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    """Version of the planner, the solver and the catalogue."""
    seconds: dict[str, NonNegative] = Field(default_factory=dict)
    """Wall seconds by stage."""
    notes: tuple[str, ...] = ()


class Binding(Spec):
    """A constraint that binds."""

    what: str
    detail: str


class WhatIf(Spec):
    """What a change is worth, found by solving again."""

    change: str
    objective_before: Real
    objective_after: Real | None = None
    """None where the changed problem has no plan."""
    note: str = ""


class Relaxation(Spec):
    """The smallest change of one dimension, the others held fixed, that makes one mode feasible."""

    service: Name | None = None
    """None for what concerns the whole cluster."""
    mode: Mode
    dimension: Literal["ttft", "tpot", "memory", "gpus", "network"]
    current: Real
    needed: Real | None = None
    """None where no value of this dimension suffices alone."""
    unit: str
    confirmed: bool = Field(strict=True)
    """Whether a solve at `needed` was feasible and one just below it was not."""
    detail: str = ""


class Explanation(Spec):
    """Why the plan is what it is, or why there is none."""

    binding: tuple[Binding, ...] = ()
    what_if: tuple[WhatIf, ...] = ()
    relaxations: tuple[Relaxation, ...] = ()
    rejected: dict[str, Annotated[int, Field(strict=True, ge=0), AS_WHOLE]] = Field(default_factory=dict)
    """Options refused before the search, by reason."""
    notes: tuple[str, ...] = ()


def _agree(value: float, expected: float, field: str, what: str) -> None:
    """Refuse a figure that differs from what the rest of the plan makes of it."""
    if abs(value - expected) > RELATIVE_TOLERANCE * max(1.0, abs(expected)):
        raise SpecError(f"must be {what}, {expected:g}, got {value:g}", field=field)


class Plan(Spec):
    """What is answered."""

    schema_id: Literal["cleave.plan/1"] = Field(alias="schema")
    status: Status
    objective: Objective
    scenario: Scenario | None = None
    """The question, every default written out: what launch files and reports need beside the answer."""
    certificate: Certificate
    services: tuple[ServicePlan, ...] = ()
    gpus_used: dict[Name, CountOrZero] = Field(default_factory=dict)
    """GPUs by pool, in the period that uses most of them."""
    gpus_idle: dict[Name, CountOrZero] = Field(default_factory=dict)
    cost_per_hour: NonNegative = 0.0
    cost_per_million_tokens: NonNegative | None = None
    """Per million output tokens; None where there are none."""
    power_kw: NonNegative = 0.0
    provenance: Provenance
    explanation: Explanation = Explanation()

    @model_validator(mode="after")
    def _check(self) -> "Plan":
        found = self.status in (Status.OPTIMAL, Status.FEASIBLE)
        if found != bool(self.services):
            raise SpecError(
                f"must {'not be empty' if found else 'be empty'} with status {self.status.value}", field="services"
            )
        if found != (self.certificate.incumbent is not None):
            raise SpecError(
                f"{'is required' if found else 'must be null'} with status {self.status.value}",
                field="certificate.incumbent",
            )
        self._check_gpus()
        if self.scenario is not None:
            self._check_scenario(self.scenario)
        return self

    def _check_scenario(self, scenario: Scenario) -> None:
        """The plan answers its scenario: services and modes, GPUs of the cluster, price and objective value."""
        asked, given = ([each.name for each in part] for part in (scenario.services, self.services))
        if self.services and asked != given:
            raise SpecError(
                f"must be those of the scenario in its order, {', '.join(asked)}; got {', '.join(given)}",
                field="services",
            )
        for s, (service, planned) in enumerate(zip(scenario.services, self.services, strict=False)):
            for d, deployment in enumerate(planned.deployments):
                if deployment.mode not in service.modes:
                    raise SpecError(
                        f"must be a mode of the service ({', '.join(service.modes)}), got {deployment.mode.value}",
                        field=f"services[{s}].deployments[{d}].mode",
                    )
        pools = {pool.name: pool for pool in scenario.cluster.pools}
        for name in sorted({*self.gpus_used, *self.gpus_idle}):
            if name not in pools:
                raise SpecError(f"unknown pool; the cluster has {', '.join(pools)}", field=f"gpus_used.{name}")
        for name, pool in pools.items():
            used, idle = self.gpus_used.get(name, 0), self.gpus_idle.get(name, 0)
            if used + idle != pool.count:
                raise SpecError(
                    f"GPUs used and idle must be the pool's {pool.count}, got {used} + {idle}",
                    field=f"gpus_idle.{name}",
                )
        cost = 0.0
        for p, pool in enumerate(scenario.cluster.pools):
            try:
                cost += self.gpus_used.get(pool.name, 0) * resolve_pool(pool).cost_per_gpu_hour
            except SpecError as error:
                raise SpecError(error.message, field=f"scenario.cluster.pools[{p}].{error.field}") from error
        _agree(self.cost_per_hour, cost, "cost_per_hour", "the price of the GPUs used")
        if self.objective != scenario.objective:
            raise SpecError("must be that of the scenario", field="objective")
        if self.certificate.incumbent is not None and self.objective.quantity in ("throughput", "cost", "gpus"):
            weights = {service.name: service.weight for service in scenario.services}
            value = {
                "throughput": sum(weights[service.name] * service.throughput_tok_s for service in self.services),
                "cost": cost,
                "gpus": float(sum(self.gpus_used.values())),
            }[self.objective.quantity]
            _agree(self.certificate.incumbent, value, "certificate.incumbent", f"the plan's {self.objective.quantity}")

    def _check_gpus(self) -> None:
        """GPUs used are the peak over periods of what the pools hold."""
        by_period: dict[int, Counter[str]] = {}
        for service in self.services:
            for deployment in service.deployments:
                for pool in deployment.pools:
                    by_period.setdefault(deployment.period, Counter())[pool.gpu_pool] += pool.gpus
        for name in sorted({*self.gpus_used, *(name for used in by_period.values() for name in used)}):
            peak = max((used[name] for used in by_period.values()), default=0)
            if self.gpus_used.get(name, 0) != peak:
                raise SpecError(
                    f"must be the GPUs of the deployments, {peak}, got {self.gpus_used.get(name, 0)}",
                    field=f"gpus_used.{name}",
                )

    def to_json(self) -> str:
        """Return the plan as JSON text."""
        return self.model_dump_json(by_alias=True, indent=2)
