"""What the renderers write passes, and counts as the plan does; faults put in by hand are named with their line."""

import re
from pathlib import Path

import pytest

from planner.check.check import check
from planner.check.report import Report
from planner.render import Target
from planner.render.folder import write_folder
from specs.errors import SpecError
from tests.check.folders import CRDS, HAND, Folder, folder
from tests.render.plans import NAMES


def _folder(name: str, target: Target) -> Folder:
    found = folder(name, target)
    assert found is not None
    return found


@pytest.mark.parametrize("target", list(Target))
@pytest.mark.parametrize("name", [*HAND, *NAMES])
def test_rendered_files_pass_and_count_as_the_plan(name: str, target: Target) -> None:
    found = folder(name, target)
    if found is None:  # the target cannot launch it; `tests/test_targets.py` holds which must
        return
    report = found.check()
    assert report.violations == ()
    used = {pool: gpus for pool, gpus in found.plan.gpus_used.items() if gpus}
    assert report.totals.gpus_by_pool == used
    assert found.plan.scenario is not None
    for pool in found.plan.scenario.cluster.pools:
        assert report.totals.gpus_by_pool.get(pool.name, 0) <= pool.count


@pytest.mark.parametrize("target", list(Target))
@pytest.mark.parametrize("name", HAND)
def test_rendered_files_pass_alone(name: str, target: Target) -> None:
    found = folder(name, target)
    if found is None:
        return
    report = found.check(plan=False, cluster=False)
    assert report.violations == ()
    assert report.totals.gpus == sum(found.plan.gpus_used.values())


def test_files_are_those_of_the_list(tmp_path: Path) -> None:
    found = _folder("single", Target.VLLM)
    write_folder(tmp_path / "out", found.files, force=False)
    assert check(tmp_path / "out").violations == ()
    (tmp_path / "out" / "README.txt").unlink()
    (tmp_path / "out" / "nodes" / "mine.sh").write_text("#!/usr/bin/env bash\n")
    said = {violation.message for violation in check(tmp_path / "out").violations}
    assert "lists 'README.txt', which is not in the folder" in said
    assert "is not in .cleave-files: rendering did not write it" in said


def _changed(found: Folder, file: str, old: str, new: str, *, plan: bool = False, cluster: bool = False) -> Report:
    """Report after one text of a file was replaced once."""
    text = found.files[file]
    assert old in text, old
    return found.check({file: text.replace(old, new, 1)}, plan=plan, cluster=cluster)


def _rules(report: Report) -> set[str]:
    return {violation.rule for violation in report.violations}


DECODE = "instances/chat-decode-0-node1.sh"


@pytest.mark.parametrize(
    ("file", "old", "new", "rule"),
    [
        (DECODE, "--tensor-parallel-size 1", "--tensor-parallel-size 2", "gpus"),
        (DECODE, "--data-parallel-size 32", "--data-parallel-size 33", "shards"),
        (DECODE, "--data-parallel-start-rank 8", "--data-parallel-start-rank 9", "address"),
        (DECODE, "--headless ", "", "address"),
        (DECODE, "--max-num-seqs", "--max-num-seq", "flags"),
        (DECODE, "--max-num-seqs 8", "--max-num-seqs many", "flags"),
        (DECODE, "--max-num-seqs 8", "--max-num-seqs 8 --max-num-seqs 8", "flags"),
        (DECODE, "--max-num-seqs 8", "--max-num-seqs 9", "alike"),
        (DECODE, "--enable-expert-parallel", "", "alike"),
        (DECODE, "CUDA_VISIBLE_DEVICES=0,1", "CUDA_VISIBLE_DEVICES=0,0", "gpus"),
        (DECODE, "--port 8000", "--port 80000", "address"),
        ("routers/chat.sh", "}:8000", "}:8001", "router"),
        ("routers/chat.sh", "--decode", "--prefill", "router"),
        ("routers/chat.sh", "--policy round_robin", "--policy robin", "flags"),
        ("nodes/b200-1.sh", "start chat-decode-0-node1", "start chat-decode-0-node2", "nodes"),
        ("nodes/b200-1.sh", "set -euo pipefail", "set -u", "script"),
        ("nodes/b200-1.sh", "start chat", "vllm serve x\nstart chat", "script"),
        ("hosts.env", "HOST_B200_3=", "HOST_B200_33=", "hosts"),
        ("inventory.json", '"role": "decode"', '"role": "prefill"', "inventory"),
    ],
)
def test_faults_in_scripts_are_found_in_the_files_alone(file: str, old: str, new: str, rule: str) -> None:
    report = _changed(_folder("wide", Target.VLLM), file, old, new)
    assert rule in _rules(report), [str(violation) for violation in report.violations]
    assert all(violation.file for violation in report.violations)


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ("size: 4", "size: 3", "gpus"),
        ("size: 4", 'size: "4"', "schema"),
        ("replicas: 2", "replica: 2", "schema"),
        ("nvidia.com/gpu: '8'", "nvidia.com/gpu: '4'", "pod"),
        ("nvidia.com/gpu.product: NVIDIA-B200", "nvidia.com/gpu.product: NVIDIA-B2000", "pod"),
        ("containerPort: 8000", "containerPort: 8001", "pod"),
        ("mountPath: /dev/shm", "mountPath: /dev/shmem", "pod"),
        ("targetPort: 8000", "targetPort: 8001", "service"),
        ("group-index: '1'", "group-index: '7'", "service"),
        ("image: vllm/vllm-openai:v", "image: vllm/vllm-openai:v9", "command"),
        ("$LWS_LEADER_ADDRESS", "$LWS_LEADER", "lws"),
    ],
)
def test_faults_in_manifests_are_found_in_the_files_alone(old: str, new: str, rule: str) -> None:
    if not CRDS.is_dir():
        pytest.skip("../shared/data/crds is absent")
    report = _changed(_folder("wide", Target.LWS), "chat.yaml", old, new)
    assert rule in _rules(report), [str(violation) for violation in report.violations]


def test_a_violation_names_its_line() -> None:
    found = _folder("wide", Target.VLLM)
    lines = found.files[DECODE].split("\n")
    report = _changed(found, DECODE, "--max-num-seqs 8", "--max-num-seqs eight")
    (violation,) = [each for each in report.violations if each.rule == "flags"]
    assert violation.line is not None
    assert "--max-num-seqs" in lines[violation.line - 1]
    assert violation.field == "--max-num-seqs"


def test_a_missing_schema_is_said() -> None:
    found = _folder("wide", Target.LWS)
    from planner.check.check import check_files
    from planner.check.findings import Findings
    from planner.check.source import SourceFile

    files = [SourceFile(name, text) for name, text in found.files.items()]
    report = check_files(files, Findings(), "x")
    assert any("DisaggregatedSet" in skipped.what for skipped in report.skipped)


@pytest.mark.parametrize(
    ("pattern", "new", "what"),
    [
        (r"--max-model-len \d+", "--max-model-len 640", "max_length"),
        (r"--max-num-seqs \d+", "--max-num-seqs 7", "sequences"),
        (r"--max-num-batched-tokens \d+", "--max-num-batched-tokens 77", "step_tokens"),
        (r"--kv-cache-dtype \w+", "--kv-cache-dtype auto", "kv_dtype"),
        (r"serve \S+", "serve Qwen/Qwen3-32B", "model"),
        (r"--all2all-backend \w+", "--all2all-backend naive", "exchange"),
    ],
)
def test_differences_from_the_plan_are_found(pattern: str, new: str, what: str) -> None:
    found = _folder("wide", Target.VLLM)
    changed = {
        name: re.sub(pattern, new, text)
        for name, text in found.files.items()
        if name.startswith("instances/chat-decode")
    }
    assert found.check(changed, plan=False, cluster=False).ok
    report = found.check(changed)
    assert what in {violation.field for violation in report.violations if violation.rule == "plan"}


def test_a_component_that_the_plan_does_not_have_is_found() -> None:
    found = _folder("twins", Target.LWS)
    other = _folder("single", Target.LWS)
    report = Folder("mixed", other.plan, {**found.files, **{"other.yaml": other.files["chat.yaml"]}}).check()
    assert "plan" in _rules(report)
    assert "cluster" in _rules(report)


def test_files_that_do_not_fit_the_cluster_are_refused() -> None:
    found, small = _folder("wide", Target.LWS), _folder("single", Target.LWS)
    report = Folder("big", small.plan, found.files).check(plan=False)
    assert "cluster" in _rules(report)


def test_weights_that_do_not_fit_a_gpu_are_found() -> None:
    found = _folder("single", Target.VLLM)
    name = "instances/chat-mixed-0-node0.sh"
    big = re.sub(r"serve \S+", "serve moonshotai/Kimi-K2-Instruct", found.files[name])
    report = found.check({name: big}, plan=False, cluster=False)
    assert "memory" in _rules(report)


def test_a_context_that_does_not_fit_is_found() -> None:
    found = _folder("single", Target.VLLM)
    name = "instances/chat-mixed-0-node0.sh"
    longer = re.sub(r"--max-model-len \d+", "--max-model-len 9000000", found.files[name])
    assert "memory" in _rules(found.check({name: longer}, plan=False, cluster=False))


def test_the_folder_is_needed(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="not a folder"):
        check(tmp_path / "nowhere")
    with pytest.raises(SpecError, match="is empty"):
        check(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(SpecError, match="no launch file"):
        check(tmp_path)
