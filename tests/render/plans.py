"""Plans of the examples, solved once per process."""

from functools import cache
from pathlib import Path

from specs.plan import Plan

ROOT = Path(__file__).parent.parent.parent
INFEASIBLE = "infeasible"
SLOW = frozenset({"agentic", "agentic-shared", "chat", "coding"})
"""They take most of the time; layouts like theirs are put together by hand in `layouts`."""
NAMES = tuple(sorted({path.stem for path in (ROOT / "examples").glob("*.yaml")} - SLOW - {INFEASIBLE}))


@cache
def example(name: str) -> Plan:
    """The plan of an example."""
    from planner.api import plan
    from specs.load import load_scenario

    return plan(load_scenario(ROOT / "examples" / f"{name}.yaml"), explain=False)
