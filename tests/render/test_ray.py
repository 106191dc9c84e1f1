import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from planner.render import Target, render
from specs.engine_table import engine_table
from specs.errors import SpecError
from specs.plan import PoolPlan, Role
from specs.scenario import Pool
from specs.service import Engine, Mode
from tests.launch.plans import plan_of, unit, worker
from tests.render.plans import example
from tests.render.test_scripts import HOSTILE

RAY_SETS = {"host", "port", "headless", "nnodes", "node_rank", "data_parallel_address", "data_parallel_size_local"}


def applications(files: dict[str, str]) -> list[dict[str, Any]]:
    assert set(files) == {"serve.yaml", "README.txt"}
    found: list[dict[str, Any]] = yaml.safe_load(files["serve.yaml"])["applications"]
    return found


def configs(application: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The LLM configs of an application, by role or empty."""
    args = application["args"]
    if "llm_configs" in args:
        (config,) = args["llm_configs"]
        return {"": config}
    return {"": args["llm_config"]} if "llm_config" in args else args


def gpus(config: dict[str, Any]) -> int:
    """GPUs of a config as Ray's documentation counts them: groups x ranks x bundles."""
    bundles = config["placement_group_config"]["bundles"]
    ranks = config["engine_kwargs"].get("data_parallel_size", 1)
    per_rank = config["engine_kwargs"]["tensor_parallel_size"] * config["engine_kwargs"].get(
        "pipeline_parallel_size", 1
    )
    assert bundles == [{"CPU": 1, "GPU": 1}] * per_rank
    return int(config["deployment_config"]["num_replicas"] * ranks * per_rank)


def wide(role: Role = Role.DECODE, pool: str = "h100", replicas: int = 2) -> PoolPlan:
    """Replicas of 16 data-parallel ranks with their experts spread over all."""
    return PoolPlan(
        role=role,
        gpu_pool=pool,
        replicas=replicas,
        gpus_per_replica=16,
        dp=16,
        ep=16,
        expert_slots=128,
        batch=64,
        chunk_tokens=0 if role is Role.DECODE else 2048,
        utilisation=1.0,
    )


@pytest.mark.parametrize("name", ["aiconfigurator-deepseek-v3.2-32xh200-vllm", "demand-cost"])
def test_applications_take_the_gpus_of_the_plan(name: str) -> None:
    plan = example(name)
    (application,) = applications(render(plan, Target.RAY))
    counted: Counter[str] = Counter()
    for config in configs(application).values():
        counted[config["accelerator_type"].lower()] += gpus(config)
    assert counted == {pool: count for pool, count in plan.gpus_used.items() if count}
    assert application["import_path"] == "ray.serve.llm:build_pd_openai_app"
    for config in configs(application).values():
        assert config["engine_kwargs"]["kv_transfer_config"] == {"kv_connector": "NixlConnector", "kv_role": "kv_both"}


def test_engine_arguments_are_vllms_own() -> None:
    flags = engine_table(Engine.VLLM).server.flags
    plans = [example("demand-cost"), plan_of([wide()], phase="decode"), plan_of([worker(2, 8)])]
    for plan in plans:
        for application in applications(render(plan, Target.RAY)):
            for config in configs(application).values():
                for argument in config["engine_kwargs"]:
                    assert f"--{argument.replace('_', '-')}" in flags
                assert not RAY_SETS & set(config["engine_kwargs"])


def test_data_parallel_ranks_are_replicas_in_groups() -> None:
    (application,) = applications(render(plan_of([wide()], phase="decode"), Target.RAY))
    assert application["import_path"] == "ray.serve.llm:build_dp_openai_app"
    config = configs(application)[""]
    assert gpus(config) == 32
    assert config["deployment_config"] == {"num_replicas": 2}
    assert config["engine_kwargs"]["enable_expert_parallel"] is True
    assert config["placement_group_config"]["strategy"] == "STRICT_PACK"


def test_both_sides_of_prefill_decode_may_be_data_parallel() -> None:
    plan = plan_of([wide(Role.PREFILL, replicas=1), wide(Role.DECODE)], mode=Mode.PREFILL_DECODE)
    (application,) = applications(render(plan, Target.RAY))
    sides = configs(application)
    assert {side: gpus(config) for side, config in sides.items()} == {"prefill_config": 16, "decode_config": 32}
    assert len({config["model_loading_config"]["model_id"] for config in sides.values()}) == 1


def test_an_instance_that_spans_nodes_is_packed() -> None:
    stages = PoolPlan(
        role=Role.MIXED,
        gpu_pool="h100",
        replicas=1,
        gpus_per_replica=16,
        tp=8,
        pp=2,
        moe_tp=8,
        batch=64,
        chunk_tokens=2048,
        utilisation=1.0,
    )
    (application,) = applications(render(plan_of([stages]), Target.RAY))
    config = configs(application)[""]
    assert gpus(config) == 16
    assert config["placement_group_config"]["strategy"] == "PACK"
    assert application["import_path"] == "ray.serve.llm:build_openai_app"


def test_every_service_has_a_route_of_its_own() -> None:
    found = applications(render(plan_of([worker(1, 4)], services=("chat", "coding")), Target.RAY))
    assert [(a["name"], a["route_prefix"]) for a in found] == [("chat", "/chat"), ("coding", "/coding")]


def test_a_hostile_model_name_stays_a_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Path(__file__).parents[1] / "specs" / "configs" / "llama-3.1-70b.json"
    (tmp_path / HOSTILE).mkdir()
    shutil.copy(config, tmp_path / HOSTILE / "config.json")
    monkeypatch.chdir(tmp_path)
    (application,) = applications(render(plan_of([worker(1, 8)], model=f"./{HOSTILE}"), Target.RAY))
    loading = configs(application)[""]["model_loading_config"]
    assert loading == {"model_id": f"./{HOSTILE}", "model_source": f"./{HOSTILE}"}


def test_other_engines_are_refused() -> None:
    with pytest.raises(SpecError, match=r"Ray Serve LLM runs vLLM, and chat uses sglang; .* --to sglang"):
        render(plan_of([worker(1, 8)], engine=Engine.SGLANG), Target.RAY)


def test_afd_is_refused() -> None:
    with pytest.raises(SpecError, match="no attention-FFN disaggregation"):
        render(plan_of(unit(1, 8, 8), mode=Mode.AFD, phase="decode"), Target.RAY)


def test_several_layouts_of_a_role_are_refused() -> None:
    with pytest.raises(SpecError, match="2 layouts of role mixed"):
        render(plan_of([worker(1, 4), worker(1, 8)]), Target.RAY)


def test_a_rank_over_nodes_is_refused() -> None:
    pool = Pool(name="gb200", gpu="gb200", count=16)
    ranks = wide(pool="gb200", replicas=1).model_copy(update={"dp": 2, "tp": 8})
    with pytest.raises(SpecError, match="the 8 GPUs of a data-parallel rank"):
        render(plan_of([ranks], cluster=[pool], phase="decode"), Target.RAY)


def test_an_unknown_gpu_is_refused() -> None:
    with pytest.raises(SpecError, match="no accelerator type for h800-sxm-80gb"):
        render(plan_of([worker(1, 8, pool="h800")]), Target.RAY)
