import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from planner.launch.component import launch
from planner.launch.placement import place
from planner.render import Target, render
from planner.render.terraform import files as terraform_files
from specs.catalog import gpu, gpu_ids
from specs.engine_table import engine_table
from specs.scenario import Pool, resolve_pool
from tests.launch.plans import plan_of, worker
from tests.render import layouts, manifests
from tests.render.plans import example
from tests.render.stage import EXAMPLES

SCHEMA = json.loads(
    (Path(__file__).parents[2] / "specs" / "data" / "schemas" / "terraform-node-pools.json").read_text()
)


def node_pools(files: dict[str, str]) -> dict[str, dict[str, Any]]:
    document = json.loads(files["cleave.auto.tfvars.json"])
    jsonschema.Draft202012Validator(SCHEMA).validate(document)
    pools: dict[str, dict[str, Any]] = document["node_pools"]
    return pools


@pytest.mark.parametrize("name", EXAMPLES)
def test_pools_are_the_nodes_that_instances_sit_on(name: str) -> None:
    plan = example(name)
    assert plan.scenario is not None
    pools = node_pools(render(plan, Target.TERRAFORM))
    assert {pool: entry["gpus_used"] for pool, entry in pools.items()} == {p: n for p, n in plan.gpus_used.items() if n}
    given = {pool.name: resolve_pool(pool) for pool in plan.scenario.cluster.pools}
    seats = place(launch(plan))
    for pool, entry in pools.items():
        assert entry["gpu"] == given[pool].gpu.id
        assert entry["gpus_per_node"] == given[pool].gpus_per_node
        assert entry["node_count"] == len({seat.node for seat in seats if seat.pool == pool})
        assert entry["gpus_used"] <= entry["node_count"] * entry["gpus_per_node"] <= given[pool].count
        assert sum(entry["placement_groups"]) == entry["node_count"]
        assert all(nodes <= entry["nodes_per_domain"] for nodes in entry["placement_groups"])


def test_a_pool_without_instances_is_left_out() -> None:
    assert "l40s" not in node_pools(render(example("demand-cost"), Target.TERRAFORM))


def test_racks_are_placement_groups() -> None:
    rack = Pool(name="rack", gpu="gb200", count=144)
    (pool,) = node_pools(render(plan_of([worker(2, 64, pool="rack")], cluster=[rack]), Target.TERRAFORM)).values()
    assert pool["placement_groups"] == [16, 16]
    assert pool["nodes_per_domain"] == 18


@pytest.mark.parametrize("target", [Target.DYNAMO, Target.LWS, Target.LLM_D, Target.KSERVE])
def test_nodes_have_the_label_that_manifests_select(target: Target) -> None:
    wanted = layouts.twins() if target is not Target.KSERVE else layouts.twin_sides()
    selected: dict[str, str] = {}
    for document in manifests.documents(render(wanted.plan, target)):
        for selector in manifests.selectors(document):
            extra = {key: value for key, value in selector.items() if key != "nvidia.com/gpu.product"}
            selected |= {value: key for key, value in extra.items()}
    pools = node_pools(render(wanted.plan, Target.TERRAFORM))
    assert set(selected) == {"east", "west"}
    for pool, label in selected.items():
        assert pools[pool]["labels"][label] == pool


@pytest.mark.parametrize("name", gpu_ids())
def test_every_gpu_type_has_a_taint(name: str) -> None:
    node = gpu(name).gpus_per_node
    plan = plan_of([worker(1, node, pool="some")], cluster=[Pool(name="some", gpu=name, count=node)])
    (pool,) = node_pools(terraform_files(launch(plan), engine_table)).values()
    assert pool["taints"][0]["key"].partition("/")[2]


def drop(key: str) -> Callable[[dict[str, Any]], object]:
    return lambda pool: pool.pop(key)


def put(key: str, value: object) -> Callable[[dict[str, Any]], object]:
    return lambda pool: pool.update({key: value})


@pytest.mark.parametrize(
    "change",
    [drop("gpus_used"), put("node_count", "4"), put("node_count", 0), put("more", 1), put("labels", {"a": "b c"})],
)
def test_the_schema_refuses_what_is_not_a_pool(change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads(render(plan_of([worker(2, 8)]), Target.TERRAFORM)["cleave.auto.tfvars.json"])
    change(document["node_pools"]["h100"])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(SCHEMA).validate(document)


def terraform(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["terraform", *words, "-no-color", "-input=false"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.skipif(shutil.which("terraform") is None, reason="terraform is not installed")
def test_terraform_reads_the_variables_and_checks_them(tmp_path: Path) -> None:
    plan = example("demand-cost")
    files = render(plan, Target.TERRAFORM)
    for path, text in files.items():
        (tmp_path / path).write_text(text)
    (tmp_path / "main.tf").write_text(
        'output "gpus" { value = sum([for p in values(var.node_pools) : p.gpus_used]) }\n'
    )
    assert terraform(tmp_path, "init").returncode == 0
    accepted = terraform(tmp_path, "plan", "-var", "machine_types={}")
    assert accepted.returncode == 0, accepted.stderr
    assert f"+ gpus = {sum(plan.gpus_used.values())}" in accepted.stdout
    formatted = subprocess.run(["terraform", "fmt", "-check", "variables.tf"], cwd=tmp_path, check=False)
    assert formatted.returncode == 0
    document = json.loads(files["cleave.auto.tfvars.json"])
    document["node_pools"]["h20"]["gpus_used"] = 9
    (tmp_path / "cleave.auto.tfvars.json").write_text(json.dumps(document))
    refused = terraform(tmp_path, "plan", "-var", "machine_types={}")
    assert refused.returncode != 0
    assert "more GPUs than its nodes have" in refused.stderr
