"""DynamoGraphDeployments: the documented schema, the plan's GPUs, and what is left to the operator."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

from planner.launch.component import Launch, launch
from planner.render.dynamo import files
from specs.engine_table import engine_table
from specs.errors import SpecError
from specs.service import Engine, Mode
from tests.launch.plans import plan_of, worker
from tests.render import layouts, manifests
from tests.render.plans import NAMES, ROOT, example

SCHEMA = ROOT / "specs" / "data" / "schemas" / "dynamographdeployment-v1beta1.json"
OPERATORS = {"--nnodes", "--node-rank", "--dist-init-addr", "--port", "--headless", "--master-addr"}


def rendered(wanted: Launch) -> dict[str, str]:
    return files(wanted, engine_table)


def counted(texts: Mapping[str, str]) -> Counter[tuple[str, str]]:
    """GPUs by role and product: replicas x nodes x GPUs of the container."""
    found: Counter[tuple[str, str]] = Counter()
    for graph in manifests.of_kind(texts, "DynamoGraphDeployment"):
        for component in graph["spec"]["components"]:
            template = component["podTemplate"]
            if component["type"] == "frontend":
                assert manifests.limit(template["spec"]) == 0
                continue
            nodes = component.get("multinode", {}).get("nodeCount", 1)
            gpus = component["replicas"] * nodes * manifests.limit(template["spec"])
            found[template["metadata"]["labels"]["cleave/role"], manifests.product(template["spec"])] += gpus
    return found


def check(wanted: Launch) -> dict[str, str]:
    texts = rendered(wanted)
    manifests.check_schema(texts, "DynamoGraphDeployment", SCHEMA)
    manifests.check_names(texts)
    manifests.check_pods(texts)
    assert counted(texts) == manifests.planned(wanted)
    for graph in manifests.of_kind(texts, "DynamoGraphDeployment"):
        components = graph["spec"]["components"]
        names = [component["name"] for component in components]
        assert len(set(names)) == len(names) <= 25
        assert names[0] == components[0]["type"] == "frontend"
        for component in components:
            [main] = component["podTemplate"]["spec"]["containers"]
            assert main["name"] == "main"
            assert not OPERATORS & set(main["args"])
            # What decode asks for its prefill listens at SGLang's host.
            host = main["args"][main["args"].index("--host") + 1] if "--host" in main["args"] else None
            served = component["type"] != "frontend" and graph["spec"]["backendFramework"] == "sglang"
            assert host == ("0.0.0.0" if served else None)
            nodes = component.get("multinode", {}).get("nodeCount", 0)
            assert nodes != 1
            # Grove: graph, scaling group and pod clique, "-ldr" and "-wkr" for several nodes.
            length = len(graph["metadata"]["name"]) + len(component["name"]) * (2 if nodes else 1) + 4
            assert length <= 45
    return texts


@pytest.mark.parametrize("name", NAMES)
def test_examples(name: str) -> None:
    wanted = launch(example(name))
    if any(deployment.mode is Mode.AFD for deployment in wanted.deployments):
        with pytest.raises(SpecError, match=r"no attention or FFN workers; can launch AFD: targets vllm"):
            rendered(wanted)
        return
    check(wanted)


@pytest.mark.parametrize("engine", Engine)
def test_instances_over_nodes(engine: Engine) -> None:
    for wanted in (layouts.deep(engine), layouts.wide(engine)):
        texts = check(wanted)
        [graph] = manifests.of_kind(texts, "DynamoGraphDeployment")
        assert graph["spec"]["backendFramework"] == engine.value
        assert [c["type"] for c in graph["spec"]["components"]] == ["frontend", "prefill", "decode"]
    assert graph["spec"]["components"][2]["multinode"] == {"nodeCount": 4}


def test_vllm_workers_take_the_engines_flags() -> None:
    [graph] = manifests.of_kind(rendered(layouts.wide()), "DynamoGraphDeployment")
    prefill, decode = (c["podTemplate"]["spec"]["containers"][0] for c in graph["spec"]["components"][1:])
    assert prefill["command"] == ["python3", "-m", "dynamo.vllm"]
    assert prefill["args"][:2] == ["--model", "Qwen/Qwen3-30B-A3B"]
    assert prefill["args"][-2:] == ["--disaggregation-mode", "prefill"]
    assert decode["args"][decode["args"].index("--data-parallel-size") + 1] == "32"
    assert not {"--data-parallel-size-local", "--data-parallel-address", "--data-parallel-rpc-port"} & set(
        decode["args"]
    )
    assert {"name": "VLLM_NIXL_SIDE_CHANNEL_HOST", "value": "$(POD_IP)"} in prefill["env"]
    # Over several nodes the operator sets it.
    assert "VLLM_NIXL_SIDE_CHANNEL_HOST" not in {variable["name"] for variable in decode["env"]}


def test_tensorrt_llm_reads_a_mounted_file() -> None:
    texts = rendered(layouts.deep(Engine.TRTLLM))
    configs = {c["metadata"]["name"]: c["data"] for c in manifests.of_kind(texts, "ConfigMap")}
    [graph] = manifests.of_kind(texts, "DynamoGraphDeployment")
    for component in graph["spec"]["components"][1:]:
        spec = component["podTemplate"]["spec"]
        [main] = spec["containers"]
        path = main["args"][main["args"].index("--extra-engine-args") + 1]
        volume = next(v for v in spec["volumes"] if v["name"] == "config")
        mount = next(m for m in main["volumeMounts"] if m["name"] == "config")
        assert path.rpartition("/")[0] == mount["mountPath"]
        assert path.rpartition("/")[2] in configs[volume["configMap"]["name"]]


def test_flags_are_of_the_version_that_the_image_holds() -> None:
    assert (
        "# Flags of sglang 0.5.21; Dynamo 1.6.1 holds sglang 0.5.21"
        in rendered(layouts.deep(Engine.SGLANG))["chat.yaml"]
    )


def test_pools_of_one_gpu_are_told_apart() -> None:
    [graph] = manifests.of_kind(check(layouts.twins()), "DynamoGraphDeployment")
    selectors = [c["podTemplate"]["spec"]["nodeSelector"] for c in graph["spec"]["components"][1:]]
    assert [selector["cleave/pool"] for selector in selectors] == ["east", "west"]


def test_long_names_are_cut() -> None:
    check(layouts.deep(services=("a-service-with-a-name-that-is-long",)))


def test_too_many_components() -> None:
    many = plan_of(tuple(worker(1, 1) for _ in range(25)))
    with pytest.raises(SpecError, match="at most 25 components"):
        rendered(launch(many))


def test_hostile_model(tmp_path: Path) -> None:
    model = layouts.hostile(tmp_path)
    [graph] = manifests.of_kind(rendered(layouts.deep(model=model)), "DynamoGraphDeployment")
    main = graph["spec"]["components"][1]["podTemplate"]["spec"]["containers"][0]
    assert model in manifests.expanded(main["args"], {"HF_TOKEN": "secret"})
