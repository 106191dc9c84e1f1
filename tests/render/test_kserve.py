"""LLMInferenceServices: the CRD, the plan's GPUs as the controller counts them, and the commands."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from planner.launch.component import Launch, launch
from planner.render.kserve import files
from specs.engine_table import engine_table
from specs.errors import SpecError
from specs.plan import Role
from specs.service import Engine, Mode
from tests.launch.plans import plan_of, worker
from tests.render import layouts, manifests
from tests.render.plans import NAMES, example

WORKER = {"POD_IP": "10.0.0.3", "LWS_LEADER_ADDRESS": "group-0.group", "LWS_WORKER_INDEX": "2"}


def rendered(wanted: Launch) -> dict[str, str]:
    return files(wanted, engine_table)


def workloads(texts: Mapping[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Replicas of one layout, with their role."""
    for service in manifests.of_kind(texts, "LLMInferenceService"):
        spec = service["spec"]
        yield "decode" if "prefill" in spec else "mixed", spec
        if "prefill" in spec:
            yield "prefill", spec["prefill"]


def size(workload: Mapping[str, Any]) -> int:
    """Pods of one group, as KServe's `GetSize` has it."""
    degrees = workload["parallelism"]
    if "worker" not in workload:
        return 1
    if "data" in degrees:
        return max(int(degrees["data"]) // int(degrees["dataLocal"]), 1)
    return int(degrees["pipeline"])


def check(wanted: Launch, crds: Path) -> dict[str, str]:
    texts = rendered(wanted)
    manifests.check_schema(texts, "LLMInferenceService", crds / "LLMInferenceService.json")
    manifests.check_names(texts)
    manifests.check_pods(texts)
    manifests.check_scripts(texts)
    counted: Counter[tuple[str, str]] = Counter()
    for role, workload in workloads(texts):
        degrees, pods = workload["parallelism"], size(workload)
        # What the controller refuses.
        assert not ("pipeline" in degrees and "data" in degrees)
        assert ("data" in degrees) == ("dataLocal" in degrees)
        assert ("worker" in workload) == (pods > 1)
        group = [workload["template"]] + [workload.get("worker")] * (pods - 1)
        gpus = sum(manifests.limit(pod) for pod in group)
        assert gpus == degrees["tensor"] * degrees.get("data", 1) * degrees.get("pipeline", 1)
        counted[role, manifests.product(workload["template"])] += workload["replicas"] * gpus
        port = 8001 if role == "decode" else 8000
        [main] = workload["template"]["containers"]
        assert main["name"] == "main"
        assert main["ports"] == [{"name": "http", "containerPort": port}]
        assert f"--port {port} " in main["args"][0]
    assert counted == manifests.planned(wanted)
    return texts


@pytest.mark.parametrize("name", NAMES)
def test_examples(name: str, crds: Path) -> None:
    wanted = launch(example(name))
    reason = None
    if {deployment.service.engine for deployment in wanted.deployments} != {Engine.VLLM}:
        reason = "presets and routing sidecar are vLLM's, .* can: targets dynamo and lws"
    elif any(deployment.mode is Mode.AFD for deployment in wanted.deployments):
        reason = "can launch AFD: targets vllm, lws"
    elif any(len(deployment.of(role)) > 1 for deployment in wanted.deployments for role in Role):
        reason = "one layout of prefill and one of decode workers, .* can: targets dynamo, llm-d and lws"
    if reason is None:
        check(wanted, crds)
        return
    with pytest.raises(SpecError, match=reason):
        rendered(wanted)


def test_groups_over_nodes(crds: Path, tmp_path: Path) -> None:
    (_, decode), (_, prefill) = workloads(check(layouts.wide(), crds))
    assert decode["parallelism"] == {"tensor": 1, "data": 32, "dataLocal": 8, "expert": True}
    assert prefill["parallelism"] == {"tensor": 1, "data": 8, "dataLocal": 8, "expert": True}
    words = manifests.run(decode["worker"]["containers"][0], tmp_path, WORKER)
    assert words[words.index("--data-parallel-start-rank") + 1] == "16"
    assert words[words.index("--data-parallel-address") + 1] == "10.0.0.9"
    (_, decode), (_, prefill) = workloads(check(layouts.deep(), crds))
    assert prefill["parallelism"] == {"tensor": 8, "pipeline": 8, "expert": True}
    words = manifests.run(prefill["worker"]["containers"][0], tmp_path, WORKER)
    assert words[words.index("--node-rank") + 1] == "2"
    assert words[words.index("--master-addr") + 1] == "10.0.0.9"


def test_groups_that_kserve_cannot_size() -> None:
    wide = worker(1, 16)
    with pytest.raises(SpecError, match="no groups of 1 pipeline stages of 16 GPUs over 2 nodes; can: targets dynamo"):
        rendered(launch(plan_of((wide,))))
    two_layouts = plan_of((worker(1, 8), worker(1, 4)))
    with pytest.raises(SpecError, match=re.escape("chat-mixed-1, chat-mixed-2; can: targets dynamo")):
        rendered(launch(two_layouts))


def test_one_instance(crds: Path) -> None:
    [(role, workload)] = workloads(check(layouts.single(), crds))
    assert (role, workload["replicas"], workload["parallelism"]) == ("mixed", 1, {"tensor": 4})


def test_a_path_is_no_model_uri(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="accepted: a Hugging Face id"):
        rendered(layouts.deep(model=layouts.hostile(tmp_path)))
