"""Every example on every target: rendered, then counted again from the files alone."""

import re
from pathlib import Path

import pytest

from planner.check.check import check
from planner.render import Target, render
from planner.render.folder import write_folder
from specs.errors import SpecError
from specs.load import load_scenario
from specs.plan import Plan
from specs.service import Engine, Mode
from tests.render.plans import EXAMPLES, NAMES, example

SCRIPTS = {Target.VLLM: Engine.VLLM, Target.SGLANG: Engine.SGLANG, Target.TRTLLM: Engine.TRTLLM}
CRDS = Path(__file__).parents[2] / "shared" / "data" / "crds"


@pytest.mark.parametrize("target", list(Target), ids=lambda target: target.value)
@pytest.mark.parametrize("name", NAMES)
def test_files_hold_the_gpus_of_the_plan(name: str, target: Target, tmp_path: Path) -> None:
    plan = example(name)
    files, refusal = rendered(plan, target)
    if files is None:
        assert not must_launch(plan, target), f"{name} on {target.value}: {refusal}"
        assert re.search(r"accepted: |can: |can launch", refusal)  # it says which can
        return
    write_folder(tmp_path / "out", files, force=False)
    scenario = load_scenario(EXAMPLES / f"{name}.yaml")
    report = check(tmp_path / "out", plan=plan, scenario=scenario, crds=CRDS if CRDS.is_dir() else None)
    assert report.violations == ()
    assert report.ok
    assert report.totals.gpus == sum(plan.gpus_used.values())


def rendered(plan: Plan, target: Target) -> tuple[dict[str, str] | None, str]:
    """The files, or None and why not."""
    try:
        return render(plan, target), ""
    except SpecError as error:
        return None, error.message


def must_launch(plan: Plan, target: Target) -> bool:
    """Targets that launch whatever the planner calls launchable: an engine's own scripts, node pools, Slurm, LWS."""
    assert plan.scenario is not None
    if not all(service.launchable for service in plan.scenario.services):
        return False
    engines = {service.engine for service in plan.scenario.services}
    if target in SCRIPTS:
        return engines == {SCRIPTS[target]}
    if target is Target.LWS:
        return Engine.TRTLLM not in engines
    return target in (Target.TERRAFORM, Target.SLURM)


def test_some_example_is_launched_in_every_mode_but_plain_afd_with_prefill() -> None:
    modes = {d.mode for name in NAMES for service in example(name).services for d in service.deployments}
    assert {Mode.AGGREGATED, Mode.PREFILL_DECODE} <= modes
