"""Values of the modelservice chart: the plan's GPUs as the chart counts them, and that every node serves."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from planner.launch.component import Launch, launch
from planner.render.llm_d import files
from specs.engine_table import engine_table
from specs.errors import SpecError
from specs.plan import Role
from specs.service import Engine, Mode
from tests.launch.plans import plan_of, worker
from tests.render import layouts, manifests
from tests.render.plans import NAMES, example

VARIABLES = {"POD_IP": "10.0.0.3", "LWS_LEADER_ADDRESS": "group-0.group", "LWS_WORKER_INDEX": "2"}
TOP = {"fullnameOverride", "multinode", "modelArtifacts", "routing", "decode", "prefill"}
SIDE = {"create", "replicas", "parallelism", "containers", "volumes", "extraConfig"}
CONTAINER = {
    *("name", "image", "modelCommand", "command", "args", "env", "ports", "resources", "securityContext"),
    *("mountModelVolume", "volumeMounts", "startupProbe", "readinessProbe", "livenessProbe"),
}
"""Fields of `values.yaml` and `templates/_helpers.tpl` of the chart, v0.4.0, that may be used."""


def rendered(wanted: Launch) -> dict[str, str]:
    return files(wanted, engine_table)


def releases(texts: Mapping[str, str]) -> list[dict[str, Any]]:
    """The values of every modelservice release."""
    return [yaml.safe_load(text) for name, text in texts.items() if "/modelservice" in name]


def check(wanted: Launch) -> dict[str, str]:
    texts = rendered(wanted)
    manifests.check_scripts(texts)
    counted: Counter[tuple[str, str]] = Counter()
    for values in releases(texts):
        assert set(values) == TOP
        for side in (values["decode"], values["prefill"]):
            if not side["create"]:
                assert side["replicas"] == 0
                continue
            assert set(side) == SIDE
            [container] = side["containers"]
            assert set(container) <= CONTAINER
            degrees = side["parallelism"]
            # As the chart does: a set of `workers` pods, whose GPUs are those named, else dataLocal x tensor.
            gpus = manifests.limit({"containers": [container]})
            assert degrees["data"] == degrees["dataLocal"] * degrees["workers"]
            assert gpus % (degrees["dataLocal"] * degrees["tensor"]) == 0
            assert values["multinode"] or degrees["workers"] == 1
            role = (
                "prefill"
                if side is values["prefill"]
                else "decode"
                if values["routing"]["proxy"]["enabled"]
                else "mixed"
            )
            key = role, manifests.product(side["extraConfig"])
            counted[key] += side["replicas"] * degrees["workers"] * gpus
            check_ports(values, role, container)
    assert counted == manifests.planned(wanted)
    names = [values["fullnameOverride"] for values in releases(texts)]
    assert len(set(names)) == len(names)
    for name in texts:
        assert name == "README.txt" or name in texts["README.txt"]
    return texts


def check_ports(values: Mapping[str, Any], role: str, container: Mapping[str, Any]) -> None:
    """The engine listens where the chart's Service, or the routing sidecar, expects it."""
    routing = values["routing"]
    port = routing["proxy"]["targetPort"] if role == "decode" else routing["servicePort"]
    assert container["ports"] == [{"name": "vllm", "containerPort": port}]
    assert f"--port {port} " in container["args"][0]


@pytest.mark.parametrize("name", NAMES)
def test_examples(name: str) -> None:
    wanted = launch(example(name))
    if {deployment.service.engine for deployment in wanted.deployments} != {Engine.VLLM}:
        with pytest.raises(SpecError, match=r"modelservice chart launches vLLM, .* can: targets dynamo and lws"):
            rendered(wanted)
        return
    if any(deployment.mode is Mode.AFD for deployment in wanted.deployments):
        with pytest.raises(SpecError, match="can launch AFD: targets vllm, lws"):
            rendered(wanted)
        return
    check(wanted)


def test_every_node_of_a_group_serves_its_ranks(tmp_path: Path) -> None:
    [values] = releases(check(layouts.wide()))
    decode = values["decode"]
    assert decode["parallelism"] == {"tensor": 1, "data": 32, "dataLocal": 8, "workers": 4}
    words = manifests.run(decode["containers"][0], tmp_path, VARIABLES)
    assert "--headless" not in words
    assert "--data-parallel-hybrid-lb" in words
    assert words[words.index("--data-parallel-start-rank") + 1] == "16"
    assert "--data-parallel-hybrid-lb" in engine_table(Engine.VLLM).server.flags
    words = manifests.run(values["prefill"]["containers"][0], tmp_path, VARIABLES)
    assert "--data-parallel-hybrid-lb" not in words


def test_a_rank_over_nodes_is_refused() -> None:
    with pytest.raises(SpecError, match="a data-parallel rank of 64 GPUs here spans nodes of 8; can: targets dynamo"):
        rendered(layouts.deep())


def test_layouts_beyond_one_per_side_are_further_releases() -> None:
    pools = (worker(2, 1, Role.PREFILL), worker(1, 4, Role.DECODE), worker(3, 2, Role.DECODE))
    texts = check(launch(plan_of(pools, mode=Mode.PREFILL_DECODE)))
    first, second = releases(texts)
    assert (first["prefill"]["create"], second["prefill"]["create"]) == (True, False)
    pool = yaml.safe_load(texts["chat/inferencepool.yaml"])["inferencePool"]
    for values in (first, second):
        assert pool["modelServers"]["matchLabels"] == values["modelArtifacts"]["labels"]
    assert pool["targetPorts"] == [{"number": first["routing"]["servicePort"]}]


def test_requests_are_split_in_prefill_and_decode_alone() -> None:
    texts = rendered(layouts.twins())
    assert all(not values["routing"]["proxy"]["enabled"] for values in releases(texts))
    assert "pluginsConfigFile" not in texts["chat/inferencepool.yaml"]
    check(layouts.twins())


def test_a_hostile_model_stays_one_word(tmp_path: Path) -> None:
    model = layouts.hostile(tmp_path)
    [values] = releases(rendered(layouts.wide(model=model)))
    folder = tmp_path / "bin"
    folder.mkdir()
    assert model in manifests.run(values["decode"]["containers"][0], folder, VARIABLES)
