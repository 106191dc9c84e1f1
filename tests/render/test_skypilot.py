import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from planner.render import Target, render
from specs.errors import SpecError
from specs.plan import Plan, PoolPlan, Role
from specs.service import Engine, Mode
from tests.launch.plans import plan_of, unit, worker
from tests.render.plans import example
from tests.render.stage import EXAMPLES, Call, Stage, shares, world_gpus
from tests.render.test_scripts import HOSTILE

NAMES = {"A100-80GB": "a100", "B200": "b200", "H100": "h100", "H200": "h200", "L40S": "l40s"}
WITHOUT = frozenset({"demand-cost", "heterogeneous-pd"})
"""Examples on GPUs that SkyPilot has no name for."""
RENDERED = tuple(name for name in EXAMPLES if name not in WITHOUT)


def tasks(files: dict[str, str]) -> list[dict[str, Any]]:
    """Every task of every file, replicas of a service repeated; headers of groups left out."""
    found = []
    for path, text in files.items():
        if path.endswith(".sky.yaml"):
            documents = list(yaml.safe_load_all(text))
            if documents[0].get("execution") == "parallel":
                assert set(documents[0]) == {"name", "execution"}
                documents = [task | {"group": documents[0]["name"]} for task in documents[1:]]
            for document in documents:
                found += [document] * document.get("service", {}).get("replicas", 1)
    return found


def gpus(task: dict[str, Any]) -> tuple[str, int]:
    """Accelerator and GPUs per node of a task."""
    accelerator, _, count = task["resources"].get("accelerators", ":0").partition(":")
    return accelerator, int(count)


def run(stage: Stage, task: dict[str, Any]) -> list[Call]:
    """Run a task on each of its nodes, which see as many GPUs as they asked for."""
    nodes = task.get("num_nodes", 1)
    hosts = [f"{task['name']}-{rank}.{task.get('group', '')}" for rank in range(nodes)]
    visible = ",".join(map(str, range(gpus(task)[1])))
    for rank, host in enumerate(hosts):
        result = stage.run(
            "bash",
            "-c",
            task["run"],
            SKYPILOT_NODE_IPS="\n".join(hosts),
            SKYPILOT_NODE_RANK=str(rank),
            STAGE_NODE=host,
            CUDA_VISIBLE_DEVICES=visible,
        )
        assert result.returncode == 0, result.stderr
    return stage.calls()


def planned(plan: Plan) -> Counter[int]:
    """GPUs by size of replica."""
    found: Counter[int] = Counter()
    for service in plan.services:
        for deployment in service.deployments:
            for part in deployment.pools:
                found[part.gpus_per_replica] += part.gpus
    return found


@pytest.mark.parametrize("name", RENDERED)
def test_tasks_ask_for_the_gpus_of_the_plan_and_start_its_engines(name: str, tmp_path: Path) -> None:
    plan = example(name)
    files = render(plan, Target.SKYPILOT)
    stage = Stage(tmp_path, files)
    configs = {path: yaml.safe_load(text) for path, text in files.items() if path.startswith("config/")}
    asked: Counter[str] = Counter()
    started: Counter[int] = Counter()
    serving, known = set(), set()
    for task in tasks(files):
        accelerator, count = gpus(task)
        if count:
            asked[NAMES[accelerator]] += count * task.get("num_nodes", 1)
        calls = run(stage, task)
        for call in calls if not count else shares(calls):
            if count:
                started[world_gpus(call, configs)] += len(call.gpus)
                serving |= {f"{call.node}:{call.value('--port')}"} if call.serves and "group" in task else set()
                continue
            words = list(call.argv)
            if "--config_file" in words:
                config = yaml.safe_load((stage.folder / words[words.index("--config_file") + 1]).read_text())
                known |= {url for side in ("context_servers", "generation_servers") for url in config[side]["urls"]}
            known |= {word.removeprefix("http://") for word in words if word.startswith("http://")}
    assert plan.scenario is not None
    used: Counter[str] = Counter()
    for pool in plan.scenario.cluster.pools:
        used[pool.gpu.split("-")[0]] += plan.gpus_used[pool.name]
    assert asked == +used
    assert started == planned(plan)
    assert known == serving


def test_independent_replicas_are_a_service() -> None:
    files = render(plan_of([worker(3, 4)]), Target.SKYPILOT)
    (task,) = yaml.safe_load_all(files["chat.sky.yaml"])
    assert task["service"]["replicas"] == 3
    assert task["resources"] == {"accelerators": "H100:4", "ports": 8000}
    assert "sky serve up -n chat chat.sky.yaml" in files["README.txt"]


def test_nodes_of_an_instance_are_one_task(tmp_path: Path) -> None:
    wide = PoolPlan(
        role=Role.DECODE,
        gpu_pool="h100",
        replicas=1,
        gpus_per_replica=16,
        dp=16,
        ep=16,
        expert_slots=128,
        batch=64,
        utilisation=1.0,
    )
    files = render(plan_of([wide], phase="decode"), Target.SKYPILOT)
    (task,) = [task for task in tasks(files) if gpus(task)[1]]
    assert task["num_nodes"] == 2
    for call in run(Stage(tmp_path, files), task):
        first = call.node.startswith(f"{task['name']}-0")
        assert call.value("--data-parallel-address") == f"{task['name']}-0.chat"
        assert ("--headless" not in call.argv) == first
        assert call.number("--data-parallel-start-rank", 0) == (0 if first else 8)


def test_every_node_hands_its_cache_over_itself(tmp_path: Path) -> None:
    wide = PoolPlan(
        role=Role.DECODE,
        gpu_pool="h100",
        replicas=1,
        gpus_per_replica=16,
        dp=16,
        ep=16,
        expert_slots=128,
        batch=64,
        utilisation=1.0,
    )
    prefill = worker(1, 8, Role.PREFILL).model_copy(update={"chunk_tokens": 2048})
    files = render(plan_of([prefill, wide], mode=Mode.PREFILL_DECODE), Target.SKYPILOT)
    stage = Stage(tmp_path, files)
    calls = [call for task in tasks(files) if gpus(task)[1] for call in run(stage, task)]
    assert len(calls) == 3
    assert all(call.hands_over_at == call.node for call in calls)


def test_mpi_starts_from_the_first_node(tmp_path: Path) -> None:
    wide = worker(1, 16).model_copy(update={"chunk_tokens": 2048})
    files = render(plan_of([wide], engine=Engine.TRTLLM), Target.SKYPILOT)
    (task,) = tasks(files)
    calls = run(Stage(tmp_path, files), task)
    assert Counter(call.node for call in calls) == {f"{task['name']}-{rank}.chat": 8 for rank in range(2)}


def test_sides_of_an_afd_unit_find_each_other(tmp_path: Path) -> None:
    plan = plan_of(unit(1, 8, 8, pools=("h100", "h200")), mode=Mode.AFD, phase="decode")
    files = render(plan, Target.SKYPILOT)
    stage = Stage(tmp_path, files)
    hosts = [yaml.safe_load(call.value("--additional-config") or "")["afd"]["host"]
             for task in tasks(files) for call in run(stage, task)]  # fmt: skip
    assert hosts == ["chat-ffn-0-0.chat"] * 2


def test_an_unknown_gpu_is_refused() -> None:
    with pytest.raises(SpecError, match="SkyPilot has no name for h20-sxm-96gb"):
        render(plan_of([worker(1, 8, pool="h20")]), Target.SKYPILOT)


def test_a_hostile_model_name_is_one_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Path(__file__).parents[1] / "specs" / "configs" / "llama-3.1-70b.json"
    (tmp_path / "models" / HOSTILE).mkdir(parents=True)
    shutil.copy(config, tmp_path / "models" / HOSTILE / "config.json")
    monkeypatch.chdir(tmp_path / "models")
    files = render(plan_of([worker(1, 8)], model=f"./{HOSTILE}"), Target.SKYPILOT)
    (task,) = tasks(files)
    (call,) = run(Stage(tmp_path / "run", files), task)
    assert call.argv[2] == f"./{HOSTILE}"
    assert list(tmp_path.rglob("canary")) == []
