import json
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from planner.check.check import check
from planner.render import Target, render
from planner.render.folder import write_folder
from specs.engine_table import engine_table
from specs.errors import SpecError
from specs.plan import PoolPlan, Role
from specs.scenario import Pool
from specs.service import Engine, Mode
from tests.launch.plans import plan_of, unit, worker
from tests.render import layouts
from tests.render.plans import example
from tests.render.stage import EXAMPLES, Call, Stage, shares, world_gpus

HOSTILE = (
    "a b 'c' \"d\" $(touch canary) `touch canary` $HOME$(touch canary) ${HOME} ; touch canary & |\n"
    "new line \\ \t * ? ~ # ! ünïcödé 模型 -- $((1)) >canary"
)
"""A name in which everything is something to a shell."""


def scripts(name: str) -> dict[str, str]:
    """The scripts of an example."""
    plan = example(name)
    assert plan.scenario is not None
    return render(plan, Target(plan.scenario.services[0].engine.value))


def configs(files: dict[str, str]) -> dict[str, dict[str, int]]:
    return {name: yaml.safe_load(text) for name, text in files.items() if name.startswith("config/")}


def run_nodes(stage: Stage, files: dict[str, str]) -> list[Call]:
    """Run the script of every node, each as a node of its own."""
    for path in sorted(files):
        if path.startswith("nodes/"):
            result = stage.run("bash", path, STAGE_NODE=Path(path).stem)
            assert result.returncode == 0, (path, result.stderr)
    return shares(stage.calls())


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Stage, list[Call]]]:
    """The scripts of an example, and what they called when every node ran its own, once per example."""
    found: dict[str, tuple[Stage, list[Call]]] = {}

    def of(name: str) -> tuple[Stage, list[Call]]:
        if name not in found:
            stage = Stage(tmp_path_factory.mktemp("played"), scripts(name))
            stage.fill_in()
            found[name] = stage, run_nodes(stage, stage.files)
        return found[name]

    return of


Played = Callable[[str], tuple[Stage, list[Call]]]


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_gpu_of_the_plan_and_no_other_is_started_once(played: Played, name: str) -> None:
    plan = example(name)
    assert plan.scenario is not None
    stage, calls = played(name)
    taken: dict[str, list[int]] = defaultdict(list)
    for call in calls:
        taken[call.node].extend(call.gpus)
    used: dict[str, int] = defaultdict(int)
    sizes = {pool.name: (pool.gpus_per_node or 8, pool.count) for pool in plan.scenario.cluster.pools}
    assert all(call.hands_over_at in ("", call.node) for call in calls)
    for node, gpus in taken.items():
        assert len(gpus) == len(set(gpus)), node
        pool, index = node.rsplit("-", 1)
        used[pool] += len(gpus)
        per_node, count = sizes[pool]
        assert max(gpus) < per_node
        assert int(index) * per_node + max(gpus) < count
    assert used == {pool: count for pool, count in plan.gpus_used.items() if count}
    planned: dict[int, int] = defaultdict(int)
    for service in plan.services:
        for deployment in service.deployments:
            for part in deployment.pools:
                planned[part.gpus_per_replica] += part.gpus
    started: dict[int, int] = defaultdict(int)
    for call in calls:
        started[world_gpus(call, configs(stage.files))] += len(call.gpus)
    assert started == planned


@pytest.mark.parametrize("name", EXAMPLES)
def test_ports_of_a_node_are_apart_and_routers_know_every_engine(played: Played, name: str) -> None:
    stage, calls = played(name)
    serving = [(call.node, call.value("--port")) for call in calls if call.serves]
    assert len(serving) == len(set(serving))
    known: set[tuple[str, str]] = set()
    routers = [path for path in stage.files if path.startswith("routers/")]
    for path in routers:
        result = stage.run("bash", path)
        assert result.returncode == 0
        (call,) = stage.calls()
        words = list(call.argv)
        if "--config_file" in words:
            config = yaml.safe_load((stage.folder / words[words.index("--config_file") + 1]).read_text())
            words = [f"http://{u}" for side in ("context_servers", "generation_servers") for u in config[side]["urls"]]
        for word in words:
            if word.startswith("http://"):
                host, _, port = word.removeprefix("http://").partition(":")
                known.add((host, port))
                assert f"waiting for {word}" in result.stderr
    assert not routers or known == set(serving)


@pytest.mark.parametrize("name", EXAMPLES)
def test_inventory_is_what_runs(played: Played, name: str) -> None:
    stage, calls = played(name)
    listed = sorted(
        (f"{node['pool']}-{node['node']}", tuple(node["gpus"]))
        for instance in json.loads(stage.files["inventory.json"])["instances"]
        for node in instance["nodes"]
    )
    assert sorted((call.node, call.gpus) for call in calls) == listed


@pytest.mark.parametrize("name", EXAMPLES)
def test_scripts_are_clean_bash(name: str, tmp_path: Path) -> None:
    files = scripts(name)
    stage = Stage(tmp_path, files)
    paths = [str(stage.folder / path) for path in files if path.endswith(".sh")]
    for path in paths:
        assert subprocess.run(["bash", "-n", path], check=False).returncode == 0
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if shellcheck is not None:
        result = subprocess.run([shellcheck, *paths], capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout


def test_hosts_have_to_be_filled_in(tmp_path: Path) -> None:
    files = scripts("demand-cost")
    stage = Stage(tmp_path, files)
    result = stage.run("bash", "instances/assistant-decode-0-node0.sh")
    assert result.returncode != 0
    assert "HOST_H20_0: fill in hosts.env" in result.stderr
    assert stage.run("bash", "nodes/h20-0.sh").returncode == 1
    assert stage.run("bash", "routers/assistant.sh").returncode != 0
    assert stage.calls() == []


def test_scripts_run_from_any_folder(tmp_path: Path) -> None:
    files = scripts("aiconfigurator-llama-3.1-70b-8xh100")
    stage = Stage(tmp_path, files)
    stage.fill_in()
    (tmp_path / "elsewhere").mkdir()
    assert stage.run("bash", "-c", "cd ../elsewhere && bash '../launch files/nodes/h100-0.sh'").returncode == 0
    assert len(stage.calls()) == 3


def test_a_node_reports_what_failed_and_lets_the_rest_run(tmp_path: Path) -> None:
    files = scripts("demand-cost")
    stage = Stage(tmp_path, files)
    stage.fill_in()
    result = stage.run("bash", "nodes/h20-0.sh", STAGE_FAILS="--port 8003")
    assert result.returncode == 1
    assert "assistant-decode-3-node0 ended with status 1" in result.stderr
    assert result.stderr.count("ended with status 0") == 6
    assert len(stage.calls()) == 7


def test_stopping_a_node_stops_its_engines(tmp_path: Path) -> None:
    files = scripts("demand-cost")
    stage = Stage(tmp_path, files)
    stage.fill_in()
    (tmp_path / "stage" / "bin" / "vllm").write_text('#!/bin/bash\necho $$ >>"$STAGE/pids"\nexec sleep 60\n')
    script = """
    bash nodes/h20-0.sh & node=$!
    until [[ -f $STAGE/pids && $(wc -l <"$STAGE/pids") == 7 ]]; do sleep 0.05; done
    kill -TERM "$node"; status=0; wait "$node" || status=$?
    for try in {1..100}; do
      alive=0; while read -r pid; do kill -0 "$pid" 2>/dev/null && alive=1; done <"$STAGE/pids"
      ((alive)) || break
      sleep 0.05
    done
    echo "$status $alive"
    """
    result = stage.run("bash", "-c", script)
    assert result.stdout.split() == ["143", "0"], result.stderr


def test_nodes_of_an_instance_meet_at_the_first(tmp_path: Path) -> None:
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
    files = render(plan_of([wide], phase="decode"), Target.VLLM)
    stage = Stage(tmp_path, files)
    (stage.folder / "hosts.env").write_text("HOST_H100_0=127.0.0.1\nHOST_H100_1=127.0.0.2\n")
    first, second = sorted(run_nodes(stage, files), key=lambda call: call.node)
    for call in (first, second):
        assert call.gpus == tuple(range(8))
        assert call.value("--data-parallel-address") == "127.0.0.1"
        assert call.number("--data-parallel-size") == 16
        assert call.number("--data-parallel-size-local") == 8
    assert first.value("--data-parallel-rpc-port") == second.value("--data-parallel-rpc-port")
    assert "--headless" not in first.argv
    assert "--headless" in second.argv
    assert second.number("--data-parallel-start-rank") == 8
    assert not any(path.startswith("routers/") for path in files)


def test_sides_of_an_afd_unit_find_each_other(tmp_path: Path) -> None:
    plan = plan_of(unit(1, 8, 8, pools=("h100", "h200")), mode=Mode.AFD, phase="decode")
    files = render(plan, Target.VLLM)
    stage = Stage(tmp_path, files)
    stage.fill_in()
    sides = {}
    for call in run_nodes(stage, files):
        afd = json.loads(call.value("--additional-config") or "")["afd"]
        sides[afd["role"]] = (call.node, afd["host"], afd["port"])
    assert sides["attention"] == ("h100-0", "h200-0", sides["ffn"][2])
    assert sides["ffn"][:2] == ("h200-0", "h200-0")


def test_mpi_starts_a_task_per_gpu_from_the_first_node(tmp_path: Path) -> None:
    wide = worker(1, 16).model_copy(update={"chunk_tokens": 2048})
    files = render(plan_of([wide], engine=Engine.TRTLLM), Target.TRTLLM)
    stage = Stage(tmp_path, files)
    stage.fill_in()
    assert stage.run("bash", "nodes/h100-1.sh").returncode == 0
    assert stage.calls() == []
    assert stage.run("bash", "nodes/h100-0.sh").returncode == 0
    calls = stage.calls()
    assert sorted(call.node for call in calls) == ["h100-0"] * 8 + ["h100-1"] * 8
    assert all(call.argv[:2] == ("trtllm-llmapi-launch", "trtllm-serve") for call in calls)
    assert all(call.gpus == tuple(range(8)) for call in calls)


@pytest.mark.parametrize("engine", list(Engine))
def test_a_hostile_model_name_is_one_word_and_nothing_runs(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Path(__file__).parents[1] / "specs" / "configs" / "llama-3.1-70b.json"
    (tmp_path / "models" / HOSTILE.replace("/", "")).mkdir(parents=True)
    shutil.copy(config, tmp_path / "models" / HOSTILE / "config.json")
    monkeypatch.chdir(tmp_path / "models")
    name = f"./{HOSTILE}"
    files = render(plan_of([worker(2, 8)], model=name, engine=engine), Target(engine.value))
    stage = Stage(tmp_path / "run", files)
    stage.fill_in()
    calls = run_nodes(stage, files)
    assert len(calls) == 2
    assert all(call.argv.count(name) == 1 for call in calls), calls[0].argv
    assert list(tmp_path.rglob("canary")) == []
    assert all(name not in text or path.startswith("instances/") for path, text in files.items())


def test_another_engine_is_refused_by_name() -> None:
    with pytest.raises(SpecError, match="it serves chat with trtllm; accepted: --to trtllm"):
        render(plan_of([worker(1, 8)], engine=Engine.TRTLLM), Target.VLLM)


def test_several_engines_are_for_slurm() -> None:
    plan = plan_of([worker(1, 8)], services=("chat", "coding"))
    assert plan.scenario is not None
    chat, coding = plan.scenario.services
    both = (chat, coding.model_copy(update={"engine": Engine.SGLANG}))
    mixed = plan.model_copy(update={"scenario": plan.scenario.model_copy(update={"services": both})})
    with pytest.raises(SpecError, match="it serves coding with sglang; accepted: --to slurm"):
        render(mixed, Target.VLLM)
    assert {"chat.sbatch", "coding.sbatch"} <= set(render(mixed, Target.SLURM))


def test_a_share_that_differs_from_node_to_node_is_refused() -> None:
    plan = plan_of(unit(1, 11, 5), mode=Mode.AFD, phase="decode", cluster=[Pool(name="h100", gpu="h100", count=16)])
    with pytest.raises(SpecError, match="11 GPUs of one instance do not divide over 2 nodes"):
        render(plan, Target.VLLM)


@pytest.mark.parametrize("target", [Target.VLLM, Target.SLURM])
def test_each_deployment_has_the_version_that_its_mode_needs(target: Target, tmp_path: Path) -> None:
    plan = layouts.two_modes()
    files = render(plan, target)
    inventory = json.loads(files["inventory.json"])
    needed = {"units": engine_table(Engine.VLLM, mode=Mode.AFD).version, "chat": engine_table(Engine.VLLM).version}
    assert inventory["versions"] == needed
    for deployment, version in needed.items():
        tops = [text for path, text in files.items() if path.startswith(f"instances/{deployment}-")]
        assert tops
        assert all(f"vllm {version}" in text for text in tops)
    write_folder(tmp_path / "out", files, force=False)
    report = check(tmp_path / "out", plan=None, scenario=None, crds=None)
    assert [v for v in report.violations if v.file in files] == []
