"""What a check found."""

from typing import Annotated, Final, Literal

from pydantic import Field

from specs.base import Spec
from specs.plan import Role
from specs.service import Engine

Total = Annotated[int, Field(strict=True, ge=0)]
"""Files may ask for any number."""
CHECK_SCHEMA: Final = "cleave.check/1"


class Violation(Spec):
    """One thing that is wrong, or (as a warning) that may be."""

    file: str
    """Path inside the checked folder."""
    line: int | None = None
    """1-based; None where the whole file is meant."""
    rule: str
    """Name of the rule; `docs/check.md` lists them."""
    message: str
    field: str | None = None
    """The field, flag or variable."""

    def __str__(self) -> str:
        where = ":".join(str(part) for part in (self.file, self.line) if part is not None)
        return ": ".join(part for part in (where, self.field, self.message) if part)


class Skipped(Spec):
    """Something that was not checked."""

    file: str
    what: str
    reason: str


class ComponentTotal(Spec):
    """One component as it was counted from the files."""

    name: str
    service: str | None = None
    role: Role | None = None
    engine: Engine | None = None
    model: str | None = None
    pool: str | None = None
    instances: Total
    gpus_per_instance: Total
    nodes_per_instance: Total
    gpus: Total
    layout: dict[str, int] = Field(default_factory=dict)
    """tp, dp, ep, moe_tp and pp of one instance."""
    file: str
    line: int | None = None


class Totals(Spec):
    """What the files ask for in total."""

    components: tuple[ComponentTotal, ...] = ()
    gpus: Total = 0
    gpus_by_pool: dict[str, Total] = Field(default_factory=dict)
    nodes_by_pool: dict[str, Total] = Field(default_factory=dict)
    """Fewest nodes that hold the instances, or the nodes named in the files."""


class Report(Spec):
    """The answer of `cleave check`."""

    schema_id: Literal["cleave.check/1"] = Field(default=CHECK_SCHEMA, alias="schema")
    ok: bool
    violations: tuple[Violation, ...] = ()
    warnings: tuple[Violation, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    totals: Totals = Totals()

    def to_json(self) -> str:
        """Return the report as JSON text."""
        return self.model_dump_json(by_alias=True, indent=2, exclude_none=True)
