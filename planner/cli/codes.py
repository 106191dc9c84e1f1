"""Exit codes of the command line."""

from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from specs.plan import Status


class ExitCode(IntEnum):
    """What the process returns."""

    DONE = 0
    """Also a time limit with an incumbent."""
    INTERNAL_ERROR = 1
    BAD_INPUT = 2
    INFEASIBLE = 3
    CHECK_FAILED = 4
    """A check, SLO or target failed."""
    NO_INCUMBENT = 5
    """The time ran out before a plan was found."""
    INTERRUPTED = 130


def code_of(status: "Status") -> ExitCode:
    """Exit code of a plan's status."""
    return {"infeasible": ExitCode.INFEASIBLE, "time_limit": ExitCode.NO_INCUMBENT}.get(status.value, ExitCode.DONE)
