"""Launch rules of workers, AFD units and modes, from the plan and from the files alone."""

import re

import pytest

from planner.check.report import Report
from planner.render import Target, render
from specs.service import Mode
from tests.check.folders import Folder, by_hand, folder
from tests.launch.plans import plan_of, unit


def _changed(name: str, pattern: str, new: str, files: str) -> Report:
    found = folder(name, Target.VLLM)
    assert found is not None
    changed = {file: re.sub(pattern, new, text) for file, text in found.files.items() if file.startswith(files)}
    assert changed != {file: found.files[file] for file in changed}
    return found.check(changed, plan=False, cluster=False)


def _blocked(report: Report) -> list[str]:
    return [violation.message for violation in report.violations if violation.rule == "launch-rule"]


@pytest.mark.parametrize(
    ("pattern", "new", "files", "blocks"),
    [
        ("Qwen/Qwen3-30B-A3B", "openai/gpt-oss-120b", "instances/", "AFD runs only DeepSeek"),
        ("Qwen/Qwen3-30B-A3B", "Qwen/Qwen3.5-397B-A17B", "instances/", "fails with two micro-batches"),
        ("--enable-expert-parallel ", "", "instances/", "AFD needs EP over all FFN ranks"),
        ("--tensor-parallel-size 1", "--tensor-parallel-size 2", "instances/chat-attention", "not both"),
        ("CUDA_VISIBLE_DEVICES=.*", "CUDA_VISIBLE_DEVICES=0,1", "instances/chat-attention", "at least as many"),
        ('"vllm": "0.30.0"', '"vllm": "0.33.0"', "inventory", "needs the AFD plugin"),
    ],
)  # fmt: skip
def test_units_and_modes_are_read_from_the_files_alone(pattern: str, new: str, files: str, blocks: str) -> None:
    found = _blocked(_changed("units", pattern, new, files))
    assert any(blocks in message for message in found), found


def _full() -> Folder:
    """AFD units of a service of both phases."""
    plan = plan_of(unit(1, 16, 8), mode=Mode.AFD)
    return Folder("full", plan, render(plan, Target.VLLM))


def test_the_phase_is_the_plan_s() -> None:
    assert any("AFD decodes only" in message for message in _blocked(_full().check()))
    assert _blocked(_full().check(plan=False, cluster=False)) == []


def test_workers_are_checked_without_a_plan() -> None:
    found = _blocked(_changed("wide", r"--enable-expert-parallel", "--enable-dbo", "instances/chat-decode"))
    assert any("dual batch overlap needs EP" in message for message in found), found


def test_a_version_without_rules_takes_those_of_the_nearest() -> None:
    plan = by_hand("wide-trtllm")
    report = Folder("old", plan, render(plan, Target.TRTLLM, engine_version="1.2.1")).check()
    (skipped,) = [each for each in report.skipped if each.what.startswith("launch rules")]
    assert skipped.what == "launch rules of trtllm 1.2.1"
    assert "TensorRT-LLM 1.3.0rc20" in skipped.reason


def test_the_version_in_dynamo_s_image_has_rules() -> None:
    found = folder("wide-sglang", Target.DYNAMO)
    assert found is not None
    assert not [each for each in found.check().skipped if each.what.startswith("launch rules")]
