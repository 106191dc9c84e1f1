"""Plans of the examples, solved once and shared by the processes of a test run."""

import os
import tempfile
from functools import cache
from pathlib import Path

from specs.plan import Plan

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = ROOT / "examples"
INFEASIBLE = "infeasible"
SLOW = frozenset({"agentic", "agentic-shared", "chat", "coding"})
"""They take most of the time; layouts like theirs are put together by hand in `layouts`."""
NAMES = tuple(sorted({path.stem for path in EXAMPLES.glob("*.yaml")} - SLOW - {INFEASIBLE}))
TIME_LIMIT_S = 120.0


@cache
def example(name: str) -> Plan:
    """The plan of an example, without its explanation."""
    from planner.api import plan
    from specs.load import load_plan, load_scenario

    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    file = Path(tempfile.gettempdir()) / f"cleave-plans-{run}" / f"{name}.json"
    if file.exists():
        return load_plan(file)
    found = plan(load_scenario(EXAMPLES / f"{name}.yaml"), explain=False, time_limit_s=TIME_LIMIT_S)
    file.parent.mkdir(exist_ok=True)
    part = file.with_suffix(f".{os.getpid()}")
    part.write_text(found.to_json(), encoding="utf-8")
    part.rename(file)  # whole or not at all: another process may be looking
    return found
