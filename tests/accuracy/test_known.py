"""What a certificate says of the cost model's error, and where it comes from."""

import json
from pathlib import Path

import pytest

from planner.accuracy import known
from planner.accuracy.known import throughput_error
from planner.api import plan
from specs.load import parse_scenario
from specs.plan import Status
from specs.service import Engine, KernelSource

H200, H20 = "h200-sxm-141gb", "h20-sxm-96gb"
MEASURED, ANALYTIC = KernelSource.MEASURED, KernelSource.ANALYTIC
SCENARIO = """
schema: cleave.scenario/1
cluster: {{pools: [{{name: p, gpu: {gpu}, count: 8}}]}}
services:
  - name: s
    model: Qwen/Qwen3-32B
    engine: vllm
    kernels: {kernels}
    workload: {{input_tokens: 1000, output_tokens: 200}}
    slo: {{ttft_ms: 2000, tpot_ms: 50}}
    modes: [aggregated]
objective: {{maximize: throughput}}
"""


def stored(gpu: str, engine: str) -> float:
    return float(json.loads(known.FILE.read_text())[gpu][engine]["throughput"])


def test_the_worst_of_what_serves_counts() -> None:
    both = [(Engine.VLLM, MEASURED, H200), (Engine.SGLANG, MEASURED, H200)]
    assert throughput_error(both) == max(stored(H200, "vllm"), stored(H200, "sglang"))


@pytest.mark.parametrize("other", [(Engine.VLLM, MEASURED, H20), (Engine.VLLM, ANALYTIC, H200)])
def test_what_was_not_measured_is_not_known(other: tuple[Engine, KernelSource, str]) -> None:
    assert throughput_error([(Engine.VLLM, MEASURED, H200), other]) is None


@pytest.mark.parametrize(("gpu", "kernels", "is_known"), [("h200", "measured", True), ("h200", "analytic", False)])
def test_a_plan_states_it_beside_its_gap(gpu: str, kernels: str, is_known: bool) -> None:
    found = plan(parse_scenario(SCENARIO.format(gpu=gpu, kernels=kernels)), explain=False)
    assert found.certificate.measurement_error == (stored(H200, "vllm") if is_known else None)


def test_a_plan_that_does_not_exist_states_the_error_of_what_it_could_have_used() -> None:
    found = plan(parse_scenario(SCENARIO.format(gpu="h200", kernels="measured").replace("2000", "1")), explain=False)
    assert (found.status, found.certificate.measurement_error) == (Status.INFEASIBLE, stored(H200, "vllm"))


def test_the_page_and_the_file_are_of_one_run() -> None:
    """`benchmarks/accuracy.py` writes both: the file's points are those of the page's scored half, or fewer."""
    page = (Path(__file__).parents[2] / "docs" / "accuracy.md").read_text()
    (line,) = [row for row in page.splitlines() if row.startswith("| scored | throughput |")]
    scored = int(line.rstrip(" |").split("|")[-1])
    counted = sum(
        int(errors["n"]) for engines in json.loads(known.FILE.read_text()).values() for errors in engines.values()
    )
    assert 0.8 * scored <= counted <= scored
