import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest
import yaml

from planner.render import Target, render
from specs.plan import Plan, PoolPlan, Role
from specs.service import Engine, Mode
from tests.launch.plans import plan_of, unit, worker
from tests.render.plans import example
from tests.render.stage import EXAMPLES, Call, Stage, shares, world_gpus

GRES = re.compile(r"#SBATCH --gres=gpu:([a-z0-9]+):(\d+)")


def groups(job: str) -> list[tuple[str, int, int]]:
    """GPU type, GPUs per node and nodes of every component of a job, from its #SBATCH lines alone."""
    found = []
    for part in job.split("#SBATCH hetjob\n"):
        ((gpu, gpus),) = GRES.findall(part)
        (nodes,) = re.findall(r"#SBATCH --nodes=(\d+)", part)
        found.append((gpu, int(gpus), int(nodes)))
    return found


def submit(stage: Stage, name: str) -> list[Call]:
    """Run a job as Slurm would: hosts by component, the last GPUs of each granted."""
    parts = groups(stage.files[f"{name}.sbatch"])
    variables = {"SLURM_SUBMIT_DIR": str(stage.folder), "SLURM_JOB_ID": "7"}
    for g, (gpu, gpus, nodes) in enumerate(parts):
        hosts = [f"{gpu}-{g}-{n}" for n in range(nodes)]
        for host in hosts:
            stage.grant(host, ",".join(str(8 - gpus + i) for i in range(gpus)), g)
        suffix = f"_HET_GROUP_{g}" if len(parts) > 1 else ""
        variables[f"SLURM_JOB_NODELIST{suffix}"] = ",".join(hosts)
    result = stage.run("bash", f"{name}.sbatch", **variables)
    assert result.returncode == 0, result.stderr
    return stage.calls()


def jobs(plan: Plan, folder: Path) -> tuple[Stage, dict[str, list[Call]]]:
    files = render(plan, Target.SLURM)
    stage = Stage(folder, files)
    return stage, {path.removesuffix(".sbatch"): submit(stage, path[:-7]) for path in files if path.endswith(".sbatch")}


def engines(calls: list[Call]) -> list[Call]:
    return [call for call in calls if call.gpus and not routes(call)]


def routes(call: Call) -> bool:
    return "disaggregated" in call.argv or any(word.startswith("http://") for word in call.argv)


@pytest.mark.parametrize("name", EXAMPLES)
def test_jobs_ask_for_the_gpus_of_the_plan_and_use_each_once(name: str, tmp_path: Path) -> None:
    plan = example(name)
    stage, called = jobs(plan, tmp_path)
    asked: Counter[str] = Counter()
    for job in called:
        for gpu, gpus, nodes in groups(stage.files[f"{job}.sbatch"]):
            asked[gpu] += gpus * nodes
    types: Counter[str] = Counter()
    assert plan.scenario is not None
    for pool in plan.scenario.cluster.pools:
        types[pool.gpu.split("-")[0]] += plan.gpus_used[pool.name]
    assert asked == +types
    configs = {path: yaml.safe_load(text) for path, text in stage.files.items() if path.startswith("config/")}
    for job, calls in called.items():
        granted = {
            f"{gpu}-{g}-{n}": set(range(8 - gpus, 8))
            for g, (gpu, gpus, nodes) in enumerate(groups(stage.files[f"{job}.sbatch"]))
            for n in range(nodes)
        }
        taken: dict[str, list[int]] = defaultdict(list)
        started: Counter[int] = Counter()
        for call in shares(engines(calls)):
            taken[call.node].extend(call.gpus)
            started[world_gpus(call, configs)] += len(call.gpus)
        assert {host: sorted(gpus) for host, gpus in taken.items()} == {h: sorted(g) for h, g in granted.items()}
        planned: Counter[int] = Counter()
        for service in plan.services:
            for deployment in service.deployments:
                if service.name == job:
                    planned.update({part.gpus_per_replica: 0 for part in deployment.pools})
                    for part in deployment.pools:
                        planned[part.gpus_per_replica] += part.gpus
        assert started == planned


@pytest.mark.parametrize("name", EXAMPLES)
def test_jobs_are_clean_bash(name: str, tmp_path: Path) -> None:
    files = render(example(name), Target.SLURM)
    stage = Stage(tmp_path, files)
    paths = [str(stage.folder / path) for path in files if path.endswith((".sh", ".sbatch"))]
    for path in paths:
        assert subprocess.run(["bash", "-n", path], check=False).returncode == 0
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if shellcheck is not None:
        result = subprocess.run([shellcheck, *paths], capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout


def test_the_router_knows_the_hosts_that_slurm_gave(tmp_path: Path) -> None:
    _, called = jobs(example("demand-cost"), tmp_path)
    (router,) = [call for call in called["assistant"] if routes(call)]
    known = sorted(word for word in router.argv if word.startswith("http://"))
    serving = sorted(f"http://at-{call.node}:{call.value('--port')}" for call in engines(called["assistant"]))
    assert known == serving


def test_ports_stay_apart_where_slurm_may_put_nodes_together(tmp_path: Path) -> None:
    stage, _ = jobs(example("two-services"), tmp_path)
    inventory = json.loads(stage.files["inventory.json"])
    ports: Counter[int] = Counter()
    shared = {}
    for instance in inventory["instances"]:
        for node in instance["nodes"]:
            shared.setdefault((instance["deployment"], node["node"]), []).append(instance)
    for members in shared.values():
        if sum(len(node["gpus"]) for member in members for node in member["nodes"]) < 8:
            ports.update({member["http_port"] for member in members})
    assert ports
    assert max(ports.values()) == 1


def test_nodes_of_an_instance_are_ranked_by_host(tmp_path: Path) -> None:
    wide = PoolPlan(
        role=Role.DECODE,
        gpu_pool="h100",
        replicas=2,
        gpus_per_replica=16,
        dp=16,
        ep=16,
        expert_slots=128,
        batch=64,
        utilisation=1.0,
    )
    _, called = jobs(plan_of([wide], phase="decode"), tmp_path)
    leaders = Counter(call.value("--data-parallel-address") for call in engines(called["chat"]))
    assert sorted(leaders.values()) == [2, 2]
    for call in engines(called["chat"]):
        first = f"at-{call.node}" == call.value("--data-parallel-address")
        assert ("--headless" not in call.argv) == first
        assert call.number("--data-parallel-start-rank", 0) == (0 if first else 8)


def test_mpi_instances_are_one_step_with_a_task_per_gpu(tmp_path: Path) -> None:
    wide = worker(1, 16).model_copy(update={"chunk_tokens": 2048})
    _, called = jobs(plan_of([wide], engine=Engine.TRTLLM), tmp_path)
    assert sorted(Counter(call.node for call in called["chat"]).values()) == [8, 8]


def test_sides_of_an_afd_unit_share_a_job(tmp_path: Path) -> None:
    plan = plan_of(unit(1, 8, 8, pools=("h100", "h200")), mode=Mode.AFD, phase="decode")
    stage = Stage(tmp_path, render(plan, Target.SLURM))
    sides = {}
    for call in submit(stage, "chat"):
        afd = json.loads(call.value("--additional-config") or "")["afd"]
        sides[afd["role"]] = (call.node, afd["host"])
    assert sides == {"attention": ("h100-0-0", "at-h200-1-0"), "ffn": ("h200-1-0", "at-h200-1-0")}


def test_steps_run_in_a_container_where_one_is_named(tmp_path: Path) -> None:
    files = render(example("aiconfigurator-llama-3.1-70b-8xh100"), Target.SLURM)
    stage = Stage(tmp_path, files)
    (tmp_path / "stage" / "bin" / "srun").write_text('#!/bin/bash\nprintf "%s\\n" "$@" >>"$STAGE/words"\n')
    variables = {"SLURM_SUBMIT_DIR": str(stage.folder), "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1"}
    image = "registry.test#a b $(touch canary)"
    assert stage.run("bash", "llama-3-1-70b.sbatch", CLEAVE_IMAGE=image, **variables).returncode == 0
    words = (tmp_path / "stage" / "words").read_text().splitlines()
    assert words.count(f"--container-image={image}") == 4
    assert list(tmp_path.rglob("canary")) == []


def test_a_job_ends_with_an_error_when_an_instance_does(tmp_path: Path) -> None:
    files = render(example("aiconfigurator-llama-3.1-70b-8xh100"), Target.SLURM)
    stage = Stage(tmp_path, files)
    stage.grant("n1", "0,1,2,3,4,5,6,7")
    variables = {"SLURM_SUBMIT_DIR": str(stage.folder), "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1"}
    result = stage.run("bash", "llama-3-1-70b.sbatch", STAGE_FAILS="llama-3-1-70b-decode.yaml", **variables)
    assert result.returncode == 1
    assert "llama-3-1-70b-decode-0 ended with status 1" in result.stderr


def test_a_job_needs_its_folder_and_hosts(tmp_path: Path) -> None:
    stage = Stage(tmp_path, render(example("aiconfigurator-llama-3.1-70b-8xh100"), Target.SLURM))
    assert "submit with sbatch" in stage.run("bash", "llama-3-1-70b.sbatch").stderr
    result = stage.run("bash", "llama-3-1-70b.sbatch", SLURM_SUBMIT_DIR=str(stage.folder), SLURM_JOB_NODELIST="")
    assert result.returncode != 0
    assert stage.calls() == []


def test_a_node_that_knows_itself_as_loopback_alone_gives_its_own_address(tmp_path: Path) -> None:
    plan = plan_of(unit(1, 8, 8, pools=("h100", "h200")), mode=Mode.AFD, phase="decode")
    stage = Stage(tmp_path, render(plan, Target.SLURM))
    (tmp_path / "stage" / "bin" / "hostname").write_text("#!/bin/bash\necho '10.0.0.7 172.17.0.1 '\n")
    (tmp_path / "stage" / "bin" / "hostname").chmod(0o755)
    stage.grant("n1", "0,1,2,3,4,5,6,7", 0)
    stage.grant("n2", "0,1,2,3,4,5,6,7", 1)
    variables = {"SLURM_SUBMIT_DIR": str(stage.folder), "SLURM_JOB_ID": "7", "SLURMD_NODENAME": "n2"}
    hosts = {"SLURM_JOB_NODELIST_HET_GROUP_0": "n1", "SLURM_JOB_NODELIST_HET_GROUP_1": "n2"}
    result = stage.run("bash", "chat.sbatch", STAGE_ALONE="n2", **variables, **hosts)
    assert result.returncode == 0, result.stderr
    found = {call.node: json.loads(call.value("--additional-config") or "")["afd"]["host"] for call in stage.calls()}
    assert found == {"n1": "10.0.0.7", "n2": "10.0.0.7"}


def test_whole_nodes_are_taken_with_their_memory() -> None:
    whole = render(plan_of([worker(1, 8)]), Target.SLURM)
    assert "#SBATCH --exclusive\n#SBATCH --mem=0\n" in whole["chat.sbatch"]
    part = render(plan_of([worker(1, 4)]), Target.SLURM)
    assert "--exclusive" not in part["chat.sbatch"]
    assert "--mem" not in part["chat.sbatch"]
    assert "--mem-per-gpu" in part["README.txt"]
