"""Lines of a user's own: those that change nothing pass, all others are found."""

import re

import pytest

from planner.check.asides import is_harmless_variable
from planner.check.report import Report
from planner.render import Target
from tests.check.folders import CRDS, folder

HARMLESS = (
    "# a comment",
    "export HF_HOME=/models",
    "export NCCL_IB_HCA=mlx5 NCCL_DEBUG='INFO'",
    "export https_proxy=http://proxy:3128",
    "export VLLM_LOGGING_LEVEL=DEBUG CUDA_HOME=/usr/local/cuda",
    "echo starting",
    "echo 'it costs $5'",
    "printf '%s\\n' starting",
    "module load cuda/12.9 gcc",
)
REFUSED = (
    "export CUDA_VISIBLE_DEVICES=0",
    "export HOST_H100_0=elsewhere",
    "export NODE_RANK=1",
    "export LEADER_HOST=elsewhere",
    "export VLLM_DP_SIZE=4",
    "export PATH=/mine",
    "export PYTHONPATH=/mine",
    "export LD_PRELOAD=/mine.so",
    "export HF_HOMME=/models",
    "export hosts=x",
    "export HF_HOME=$(pwd)",
    "export HF_HOME=${CUDA_VISIBLE_DEVICES:=0}",
    "export HF_HOME=/models > /dev/null",
    "export HF_HOME",
    "echo $(rm -rf /)",
    "echo `date`",
    "echo starting > instances/x",
    "echo starting | bash",
    "echo starting && vllm serve x",
    "CUDA_VISIBLE_DEVICES=0 echo starting",
    "printf -v granted 0",
    "module unload cuda",
    "module load $NAME",
    "vllm serve x",
    "alias echo=vllm",
    "if true; then echo starting; fi",
    "echo() { vllm serve x; }",
)


def _with(target: Target, file: str, before: str, line: str) -> Report:
    """Report with a line of a user's own before another."""
    found = folder("wide" if target is not Target.SKYPILOT else "single", target)
    assert found is not None
    text = found.files[file]
    assert before in text
    at = text.index(before)
    indent = text[text.rfind("\n", 0, at) + 1 : at]
    return found.check({file: text.replace(before, f"{line}\n{indent}{before}", 1)})


PLACES = [
    (Target.VLLM, "instances/chat-decode-0-node1.sh", "exec env"),
    (Target.VLLM, "nodes/b200-1.sh", "start chat"),
    (Target.VLLM, "routers/chat.sh", "exec "),
    (Target.SLURM, "chat.sbatch", "runner="),
    (Target.SLURM, "share.sh", "name=$1"),
    (Target.SKYPILOT, "chat.sky.yaml", "exec "),
    (Target.LWS, "chat.yaml", "exec "),
]


@pytest.mark.parametrize(("target", "file", "before"), PLACES)
@pytest.mark.parametrize("line", HARMLESS)
def test_lines_that_change_nothing_pass(target: Target, file: str, before: str, line: str) -> None:
    if target is Target.LWS and not CRDS.is_dir():
        pytest.skip("../shared/data/crds is absent")
    assert _with(target, file, before, line).violations == ()


@pytest.mark.parametrize(("target", "file", "before"), PLACES)
@pytest.mark.parametrize("line", REFUSED)
def test_lines_that_may_change_something_are_found(target: Target, file: str, before: str, line: str) -> None:
    if file.startswith("routers/") and line.startswith("export CUDA"):
        pytest.skip("a router sees no GPU, whatever it is told")
    report = _with(target, file, before, line)
    assert any(violation.file == file for violation in report.violations)


@pytest.mark.parametrize("target", [Target.LWS, Target.DYNAMO, Target.KSERVE, Target.LLM_D])
@pytest.mark.parametrize(("variable", "good"), [("NCCL_DEBUG", True), ("CUDA_VISIBLE_DEVICES", False)])
def test_variables_of_containers(target: Target, variable: str, good: bool) -> None:
    if not CRDS.is_dir():
        pytest.skip("../shared/data/crds is absent")
    found = folder("wide", target) or folder("single", target)
    assert found is not None
    changed = {
        file: re.sub(
            r"^( *)- name: HF_HOME$", rf"\1- name: {variable}\n\1  value: '0'\n\g<0>", text, flags=re.MULTILINE
        )
        for file, text in found.files.items()
    }
    assert changed != found.files
    assert found.check(changed).ok == good


@pytest.mark.parametrize("line", ["source ./mine.sh", ". /opt/venv/bin/activate"])
def test_a_sourced_file_is_a_warning(line: str) -> None:
    report = _with(*PLACES[0], line)
    assert report.ok
    (warning,) = [each for each in report.warnings if each.rule == "script"]
    assert (warning.file, line.split()[1] in warning.message) == (PLACES[0][1], True)


def test_a_line_does_not_replace_one_that_must_be_there() -> None:
    found = folder("wide", Target.VLLM)
    assert found is not None
    file = "instances/chat-decode-0-node1.sh"
    changed = found.files[file].replace("source ./hosts.env", "source ./other.env")
    assert not found.check({file: changed}).ok
    unset = found.files[file].replace("export CUDA_VISIBLE_DEVICES", "export CUDA_DEVICES_VISIBLE")
    assert not found.check({file: unset}).ok


@pytest.mark.parametrize("name", ["", "A-B", "1A", "PATH", "UID", "SLURM_JOB_ID", "RANK", "HF_HUB_CACHEX", "BASH_ENV"])
def test_variables_that_are_settings(name: str) -> None:
    assert not is_harmless_variable(name)
