"""The pipeline of the examples, run for real."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "examples" / "pipeline" / "plan.sh"
SMALL = """
schema: cleave.scenario/1
cluster: {pools: [{name: h100, gpu: h100, count: 8}]}
services:
  - name: chat
    model: meta-llama/Llama-3.1-8B
    engine: vllm
    kernels: analytic
    modes: [aggregated]
    workload: {input_tokens: 1000, output_tokens: 200}
    slo: {ttft_ms: %s, tpot_ms: 50}
objective: {maximize: throughput}
"""


@pytest.fixture
def run(tmp_path: Path):
    commands = tmp_path / "bin"
    commands.mkdir()
    cleave = commands / "cleave"
    cleave.write_text(
        f'#!/bin/sh\nexec "{sys.executable}" -c "import sys; from planner.cli import main; sys.exit(main())" "$@"\n'
    )
    cleave.chmod(0o755)
    environment = {**os.environ, "PATH": f"{commands}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}

    def script(scenario: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "scenario.yaml").write_text(scenario)
        arguments = [str(SCRIPT), "scenario.yaml", "lws", "deployed"]
        return subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)

    return script


def test_a_change_is_deployed_once_and_an_infeasible_one_never(run, tmp_path: Path) -> None:
    first = run(SMALL % 500)
    assert (first.returncode, first.stdout) == (0, "changed\n"), first.stderr
    deployed = {path.name for path in (tmp_path / "deployed").iterdir()}
    assert deployed == {"plan.json", "launch", "report.html"}
    before = {path: path.read_bytes() for path in (tmp_path / "deployed").rglob("*") if path.is_file()}
    again = run(SMALL % 500)
    assert (again.returncode, again.stdout) == (0, "unchanged\n"), again.stderr
    hopeless = run(SMALL % 0.1)
    assert (hopeless.returncode, hopeless.stdout) == (3, "")
    assert {path: path.read_bytes() for path in (tmp_path / "deployed").rglob("*") if path.is_file()} == before


def test_the_job_fails_when_the_script_does() -> None:
    job = yaml.safe_load((SCRIPT.parent / "github-actions.yaml").read_text())
    step = next(step for step in job["jobs"]["plan"]["steps"] if step.get("id") == "plan")
    line = step["run"].replace("serving/plan.sh serving/scenario.yaml lws serving/deployed", "exit 3")
    ran = subprocess.run(["bash", "-e", "-c", line], env={**os.environ, "GITHUB_OUTPUT": "/dev/null"})
    assert ran.returncode == 3
