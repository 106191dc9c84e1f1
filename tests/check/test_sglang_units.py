"""AFD units of SGLang, which only a version in no release launches."""

import re

import pytest

from planner.render import Target, render
from specs.service import Engine, Mode, Phase, Slo
from tests.check.folders import Folder
from tests.check.harmless import class_of
from tests.check.mutation_run import killed
from tests.check.mutators import sampled
from tests.launch.plans import plan_of, unit

VERSION = "0.5.21+pr36258"


def _folder(target: Target = Target.SGLANG, **changed: object) -> Folder:
    pools = tuple(pool.model_copy(update={"microbatches": 1}) for pool in unit(2, 4, 4))
    plan = plan_of(pools, mode=Mode.AFD, engine=Engine.SGLANG, phase=Phase.DECODE, slo=Slo(tpot_ms=50.0), **changed)
    return Folder(f"units-sglang@{target.value}", plan, render(plan, target, engine_version=VERSION))


@pytest.mark.parametrize("target", [Target.SGLANG, Target.SLURM])
@pytest.mark.parametrize("plan", [True, False])
def test_rendered_units_pass(target: Target, plan: bool) -> None:
    report = _folder(target).check(plan=plan, cluster=plan)
    assert report.violations == ()
    assert report.totals.gpus == 16


@pytest.mark.parametrize(
    ("side", "pattern", "new", "rule"),
    [
        ("ffn", "--afd-role ffn", "--afd-role attn", "role"),
        ("ffn", r":10\d+\"? *$", ":20000", "unit"),
        ("ffn", r"DMLC_PS_ROOT_PORT=\d+", "DMLC_PS_ROOT_PORT=20000", "unit"),
        ("attention", "--disable-cuda-graph", "", "unit"),
        ("attention", "--disable-overlap-schedule", "", "unit"),
        ("ffn", "--afd-transfer-backend stepmesh", "", "unit"),
        ("ffn", "--ep-size 4", "--ep-size 3", "shards"),
        ("attention", "CUDA_VISIBLE_DEVICES=.*", "CUDA_VISIBLE_DEVICES=0,1", "launch-rule"),
        ("attention", "--enable-dp-attention", "--enable-two-batch-overlap", "launch-rule"),
    ],
)
def test_faults_are_found_in_the_files_alone(side: str, pattern: str, new: str, rule: str) -> None:
    found = _folder()
    file = f"instances/chat-{side}-0-node0.sh"
    changed, count = re.subn(pattern, new, found.files[file], count=1, flags=re.MULTILINE)
    assert count == 1
    report = found.check({file: changed}, plan=False, cluster=False)
    assert rule in {violation.rule for violation in report.violations}, report.violations


def test_mutants_are_found() -> None:
    found = _folder()
    for file, text in found.files.items():
        for mutant in sampled(file, text, 0.12, found.name):
            assert killed(found, mutant) or class_of(mutant) is not None, str(mutant)
