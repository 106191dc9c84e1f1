"""Plans side by side: the best of every mode on one scenario, and the best few of one search."""

from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from specs.base import Spec
from specs.errors import SpecError
from specs.objective import Objective
from specs.plan import Plan, Relaxation, Status
from specs.quantities import MillisecondsOrZero, NonNegative, Real
from specs.service import Mode

COMPARISON_SCHEMA: Final = "cleave.comparison/1"
ALTERNATIVES_SCHEMA: Final = "cleave.alternatives/1"


class ParetoPoint(Spec):
    """One undominated trade between what a GPU yields and what a user feels."""

    tokens_per_s_per_gpu: NonNegative
    """Output tokens/s over all GPUs of the deployment."""
    tokens_per_s_per_user: NonNegative
    """1000 / `tpot_ms`."""
    tpot_ms: MillisecondsOrZero
    ttft_ms: MillisecondsOrZero | None = None
    """None where the phase has none."""
    layout: str
    """What is deployed there, in words."""


class ModeResult(Spec):
    """What one mode reaches when no other is allowed, or what kills it."""

    mode: Mode
    status: Status
    value: Real | None = None
    """Objective value of `plan`; None without one."""
    plan: Plan | None = None
    """The best plan, whether the engines can launch it or not."""
    launchable_value: Real | None = None
    """Objective value of the best plan that the engines can launch; None where there is none."""
    launchable_plan: Plan | None = None
    """That plan where it is another than `plan`; None where `plan` can be launched, or nothing can."""
    blocked_by: tuple[str, ...] = ()
    """Rules of the engines that block `plan`; empty where it can be launched."""
    reason: str = ""
    """Why it loses or dies; empty for the best."""
    relaxations: tuple[Relaxation, ...] = ()
    pareto: tuple[ParetoPoint, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> "ModeResult":
        found = self.status in (Status.OPTIMAL, Status.FEASIBLE)
        if found != (self.value is not None):
            raise SpecError(
                f"{'is required' if found else 'must be null'} with status {self.status.value}", field="value"
            )
        if self.launchable_plan is not None and self.launchable_value is None:
            raise SpecError("is required beside launchable_plan", field="launchable_value")
        return self

    def answer(self, *, launchable: bool) -> tuple[float | None, Plan | None]:
        """Value and plan: of the best launchable plan, or of the best one."""
        if not launchable or (self.launchable_plan is None and not self.blocked_by):
            return self.value, self.plan
        return self.launchable_value, self.launchable_plan


class Comparison(Spec):
    """Every mode on the same scenario."""

    schema_id: Literal["cleave.comparison/1"] = Field(alias="schema")
    objective: Objective
    modes: tuple[ModeResult, ...] = Field(min_length=1)
    best: Mode | None = None
    """None where no mode has a plan such as the services ask for."""
    launchable: bool = Field(default=False, strict=True)
    """Whether a service asks for what its engine can launch: `best`, reasons and curves are of launchable plans."""
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> "Comparison":
        by_mode = {result.mode: result for result in self.modes}
        if len(by_mode) != len(self.modes):
            raise SpecError("must name each mode once", field="modes")
        answers = {mode: result.answer(launchable=self.launchable)[0] for mode, result in by_mode.items()}
        found = [mode for mode, value in answers.items() if value is not None]
        if (self.best is None) == bool(found) or (self.best is not None and self.best not in found):
            accepted = ", ".join(mode.value for mode in found) or "null"
            raise SpecError(f"must be a mode that has a plan ({accepted}), got {self.best}", field="best")
        return self

    def to_json(self) -> str:
        """Return the comparison as JSON text."""
        return self.model_dump_json(by_alias=True, indent=2)


class Alternative(Spec):
    """One plan and how far it is from the best."""

    distance: Annotated[float, Field(strict=True, ge=0)]
    """|objective - best objective| / |best objective|."""
    plan: Plan


class Alternatives(Spec):
    """Plans that differ in mode or layout, the best first."""

    schema_id: Literal["cleave.alternatives/1"] = Field(alias="schema")
    alternatives: tuple[Alternative, ...] = Field(min_length=1)

    @classmethod
    def of(cls, plans: tuple[Plan, ...]) -> "Alternatives":
        """Measure the distance of each plan from the first, which is the best.

        Raises:
            ValueError: there is no plan, or one without an incumbent.

        """
        values = [plan.certificate.incumbent for plan in plans if plan.certificate.incumbent is not None]
        if not plans or len(values) < len(plans):
            raise ValueError("alternatives are plans that were found")
        scale = abs(values[0]) or 1.0
        return cls(
            schema=ALTERNATIVES_SCHEMA,
            alternatives=tuple(
                Alternative(distance=abs(value - values[0]) / scale, plan=plan)
                for value, plan in zip(values, plans, strict=True)
            ),
        )

    def to_json(self) -> str:
        """Return the plans as JSON text."""
        return self.model_dump_json(by_alias=True, indent=2)
