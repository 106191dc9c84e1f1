"""Rendered folders that the checks are tried on."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from planner.check.check import check_files
from planner.check.findings import Findings
from planner.check.report import Report
from planner.check.source import SourceFile
from planner.launch.component import launch
from planner.render import Target, render
from specs.errors import SpecError
from specs.plan import Plan
from specs.service import Engine, Mode, Phase, Slo
from tests.launch.plans import plan_of, unit
from tests.render import layouts
from tests.render.plans import NAMES, example

CRDS = Path(__file__).parent.parent.parent.parent / "shared" / "data" / "crds"


@dataclass(frozen=True)
class Folder:
    """The files of a plan for a target."""

    name: str
    plan: Plan
    files: dict[str, str]

    def check(self, changed: dict[str, str] | None = None, *, plan: bool = True, cluster: bool = True) -> Report:
        """Check the files, some of them changed, against the plan and its cluster."""
        files = {**self.files, **(changed or {})}
        return check_files(
            [SourceFile(name, text) for name, text in sorted(files.items())],
            Findings(),
            self.name,
            plan=self.plan if plan else None,
            scenario=self.plan.scenario if cluster else None,
            crds=CRDS if CRDS.is_dir() else None,
            parsers=False,
        )


HAND = ("wide", "wide-sglang", "wide-trtllm", "deep-sglang", "twins", "units", "prefill-units", "single")


@cache
def by_hand(name: str) -> Plan:
    """A plan that was put together by hand."""
    made = {
        "wide": lambda: layouts.wide(),
        "wide-sglang": lambda: layouts.wide(Engine.SGLANG),
        "wide-trtllm": lambda: layouts.wide(Engine.TRTLLM),
        "deep-sglang": lambda: layouts.deep(Engine.SGLANG),
        "twins": lambda: layouts.twins(),
        # AFD alone decodes: the engine's rules refuse it for a service of both phases.
        "units": lambda: launch(plan_of(unit(2, 16, 8), mode=Mode.AFD, phase=Phase.DECODE, slo=Slo(tpot_ms=50.0))),
        "prefill-units": lambda: layouts.units_behind_prefill(),
        "single": lambda: layouts.single(),
    }
    return made[name]().plan


@cache
def folder(name: str, target: Target) -> Folder | None:
    """The files of a plan for a target; None where the target cannot launch it."""
    plan = by_hand(name) if name in HAND else example(name)
    try:
        return Folder(f"{name}@{target.value}", plan, render(plan, target))
    except SpecError:
        return None


def folders(names: tuple[str, ...] = (*HAND, *NAMES)) -> Iterator[Folder]:
    """The folders of plans, for every target that can launch them."""
    for name in names:
        for target in Target:
            found = folder(name, target)
            if found is not None:
                yield found
