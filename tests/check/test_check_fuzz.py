"""Whatever a folder holds, the check answers: a report or one `SpecError`, no traceback, in bounded time."""

import os
import random
import time
from itertools import pairwise
from pathlib import Path

import pytest

from planner.check.check import check
from planner.check.report import Report
from planner.render import Target
from planner.render.folder import write_folder
from specs.errors import SpecError
from tests.check.folders import CRDS, folder

SECONDS = 20.0


def _checked(path: Path) -> Report | None:
    started = time.monotonic()
    try:
        report = check(path, crds=CRDS if CRDS.is_dir() else None)
    except SpecError:
        report = None
    assert time.monotonic() - started < SECONDS
    return report


def _written(tmp_path: Path, name: str, target: Target) -> Path:
    found = folder(name, target)
    assert found is not None
    write_folder(tmp_path / "out", found.files, force=True)
    return tmp_path / "out"


@pytest.mark.parametrize("target", [Target.VLLM, Target.LWS, Target.RAY, Target.SLURM, Target.TERRAFORM])
def test_bytes_changed_at_random(target: Target, tmp_path: Path) -> None:
    chance = random.Random(target.value)
    path = _written(tmp_path, "wide", target)
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.name != "README.txt")
    for _ in range(40):
        file = chance.choice(files)
        before = file.read_bytes()
        data = bytearray(before)
        for _ in range(chance.randint(1, 30)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        file.write_bytes(bytes(data))
        _checked(path)
        file.write_bytes(before)


@pytest.mark.parametrize("target", [Target.VLLM, Target.LWS, Target.LLM_D, Target.SKYPILOT, Target.TERRAFORM])
def test_truncated_files(target: Target, tmp_path: Path) -> None:
    chance = random.Random(target.value)
    path = _written(tmp_path, "wide", target)
    for file in sorted(path.rglob("*"))[:20]:
        if not file.is_file() or file.name == "README.txt":
            continue
        before = file.read_bytes()
        file.write_bytes(before[: chance.randrange(len(before))])
        _checked(path)
        file.write_bytes(before)


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x,x,x,x,x,x,x,x,x]\n"
        + "".join(f"{c}: &{c} [{','.join([f'*{p}'] * 9)}]\n" for p, c in pairwise("abcdefghi")),
        "apiVersion: v1\nkind: &k {a: *k}\n",
        "[" * 100_000,
        "apiVersion: v1\nkind: Service\n" + "a: 1\n" * 10_000,
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata:\n"
        + "".join(f"  k{i}: v\n" for i in range(10_000)),
        "!!python/object/apply:os.system ['touch harmed']\n",
        "\x00\x01",
        "kind: LeaderWorkerSet\nspec: []\napiVersion: leaderworkerset.x-k8s.io/v1\n",
        "kind: DynamoGraphDeployment\napiVersion: nvidia.com/v1beta1\n"
        "spec: {backendFramework: vllm, components: [1, {}, null]}\n",
        "kind: LLMInferenceService\napiVersion: serving.kserve.io/v1alpha2\nspec: {template: {containers: [{}]}}\n",
        "applications: {}\n",
        "applications: [{args: 1}]\n",
    ],
)  # fmt: skip
def test_hostile_yaml(text: str, tmp_path: Path) -> None:
    path = _written(tmp_path, "wide", Target.LWS)
    (path / "zz.yaml").write_text(text)
    report = _checked(path)
    assert report is not None
    assert not report.ok
    assert any(violation.file == "zz.yaml" for violation in report.violations)
    assert not Path("harmed").exists()


def test_what_is_unreadable_has_its_line(tmp_path: Path) -> None:
    path = _written(tmp_path, "wide", Target.LWS)
    (path / "chat.yaml").write_text((path / "chat.yaml").read_text().replace("kind: Service", "kind: [Service", 1))
    (path / "keep.yaml").write_text("apiVersion: v1\nkind: LeaderWorkerSet\n")
    report = _checked(path)
    assert report is not None
    assert any(v.file == "chat.yaml" and v.line and v.rule == "file" for v in report.violations)


def test_links_are_not_followed(tmp_path: Path) -> None:
    path = _written(tmp_path, "wide", Target.VLLM)
    secret = tmp_path / "secret.sh"
    secret.write_text("echo secret-words")
    (path / "instances" / "link-node0.sh").symlink_to(secret)
    (path / "folder").symlink_to(tmp_path)
    report = _checked(path)
    assert report is not None
    linked = {violation.file for violation in report.violations if "symbolic link" in violation.message}
    assert linked == {"instances/link-node0.sh", "folder"}
    assert "secret-words" not in report.to_json()


def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    path = _written(tmp_path, "single", Target.VLLM)
    os.mkfifo(path / "pipe.yaml")
    report = _checked(path)
    assert report is not None
    assert any("plain file" in violation.message for violation in report.violations)


def test_long_scripts_take_no_longer_than_they_are(tmp_path: Path) -> None:
    path = _written(tmp_path, "single", Target.VLLM)
    (path / "instances" / "x-mixed-0-node0.sh").write_text("#!/bin/bash\n" + "export A=1\n" * 10_000)
    (path / "nodes" / "h100-9.sh").write_text("#!/bin/bash\n" + "start a\n" * 10_000)
    report = _checked(path)
    assert report is not None
    assert len(report.violations) <= 1000


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("replicas: 2", "replicas: 1000000"),
        ("replicas: 2", f"replicas: {10**400}"),
        ("size: 4", "size: 1000"),
        ("size: 4", "size: 1000000"),
        ("nvidia.com/gpu: '8'", "nvidia.com/gpu: '0'"),
        ("--data-parallel-size 32", "--data-parallel-size 99999999999999999999"),
        ("--max-model-len ", "--max-model-len 9999999999999"),
    ],
)
def test_huge_numbers(old: str, new: str) -> None:
    found = folder("wide", Target.LWS)
    assert found is not None
    started = time.monotonic()
    changed = {"chat.yaml": found.files["chat.yaml"].replace(old, new)}
    assert not found.check(changed).ok
    found.check(changed, plan=False, cluster=False)
    assert time.monotonic() - started < SECONDS
