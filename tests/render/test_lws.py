"""LeaderWorkerSets and DisaggregatedSets: the CRDs, the plan's GPUs, and that the parts find one another."""

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from planner.launch.component import Launch, launch
from planner.render.lws import files
from specs.engine_table import engine_table
from specs.errors import SpecError
from specs.service import Engine, Mode
from tests.render import layouts, manifests
from tests.render.plans import NAMES, example

LEADER = {"POD_IP": "10.0.0.1", "LWS_LEADER_ADDRESS": "group-0.group"}
WORKER = {**LEADER, "POD_IP": "10.0.0.3", "LWS_WORKER_INDEX": "2"}
PREFIX = "leaderworkerset.sigs.k8s.io"


def rendered(wanted: Launch) -> dict[str, str]:
    return files(wanted, engine_table)


def groups(texts: Mapping[str, str]) -> list[dict[str, Any]]:
    """The specs of all sets and roles."""
    alone = [document["spec"] for document in manifests.of_kind(texts, "LeaderWorkerSet")]
    together = [r["spec"] for d in manifests.of_kind(texts, "DisaggregatedSet") for r in d["spec"]["roles"]]
    return alone + together


def pods(group: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The pod templates of one group, leader first."""
    template = group["leaderWorkerTemplate"]
    leader = template.get("leaderTemplate", template["workerTemplate"])
    return [leader] + [template["workerTemplate"]] * (template["size"] - 1)


def counted(texts: Mapping[str, str]) -> Counter[tuple[str, str]]:
    """GPUs by role and product: groups x the GPUs of all their pods."""
    found: Counter[tuple[str, str]] = Counter()
    for group in groups(texts):
        for pod in pods(group):
            key = pod["metadata"]["labels"]["cleave/role"], manifests.product(pod["spec"])
            found[key] += group["replicas"] * manifests.limit(pod["spec"])
    for document in manifests.of_kind(texts, "Deployment"):
        assert manifests.limit(document["spec"]["template"]["spec"]) == 0
    return found


def check(wanted: Launch, crds: Path) -> dict[str, str]:
    texts = rendered(wanted)
    for kind in ("LeaderWorkerSet", "DisaggregatedSet"):
        manifests.check_schema(texts, kind, crds / f"{kind}.json")
    manifests.check_names(texts)
    manifests.check_pods(texts)
    manifests.check_scripts(texts)
    assert counted(texts) == manifests.planned(wanted)
    check_addresses(texts)
    return texts


def check_addresses(texts: Mapping[str, str]) -> None:
    """Every host of a router is a Service with one leader behind it, and every leader has one."""
    leaders: Counter[tuple[str, int]] = Counter()
    for group in groups(texts):
        labels = pods(group)[0]["metadata"]["labels"]
        for index in range(group["replicas"]):
            leaders[labels["cleave/component"], index] += 1
    services = {service["metadata"]["name"]: service["spec"] for service in manifests.of_kind(texts, "Service")}
    named = set()
    for name, spec in services.items():
        if spec.get("clusterIP") == "None":
            selector = spec["selector"]
            assert selector[f"{PREFIX}/worker-index"] == "0"
            leader = selector["cleave/component"], int(selector[f"{PREFIX}/group-index"])
            assert leaders[leader] == 1
            assert name == f"{leader[0]}-{leader[1]}"
            named.add(leader)
    assert named == set(leaders)
    for document in manifests.documents(texts):
        for host in re.findall(r"(?:http://|^\s*- )([a-z0-9-]+):8000", json.dumps(document).replace("\\n", "\n"), re.M):
            assert services[host]["clusterIP"] == "None"


@pytest.mark.parametrize("name", NAMES)
def test_examples(name: str, crds: Path) -> None:
    wanted = launch(example(name))
    refusal = manifests.refusal(wanted)
    if refusal is not None:
        with pytest.raises(SpecError, match=re.escape(refusal)):
            rendered(wanted)
        return
    over_nodes = any(component.nodes > 1 for component in wanted.components)
    if wanted.deployments[0].service.engine is Engine.TRTLLM and over_nodes:
        with pytest.raises(SpecError, match=r"started by MPI, .*can: targets dynamo"):
            rendered(wanted)
        return
    texts = check(wanted, crds)
    for deployment in wanted.deployments:
        kind = "DisaggregatedSet" if deployment.mode is Mode.PREFILL_DECODE else "LeaderWorkerSet"
        assert manifests.of_kind({"a.yaml": texts[f"{deployment.name}.yaml"]}, kind)


@pytest.mark.parametrize("engine", [Engine.VLLM, Engine.SGLANG])
def test_groups_over_nodes(engine: Engine, crds: Path) -> None:
    prefill, decode = groups(check(layouts.deep(engine), crds))
    assert (prefill["replicas"], prefill["leaderWorkerTemplate"]["size"]) == (1, 8)
    assert (decode["replicas"], decode["leaderWorkerTemplate"]["size"]) == (3, 1)
    prefill, decode = groups(check(layouts.wide(engine), crds))
    assert (decode["replicas"], decode["leaderWorkerTemplate"]["size"]) == (2, 4)


def test_the_nodes_of_a_group_find_the_leader(tmp_path: Path) -> None:
    prefill, _ = groups(rendered(layouts.deep(Engine.SGLANG)))
    leader, worker = (pod["spec"]["containers"][0] for pod in pods(prefill)[:2])
    words = manifests.run(leader, tmp_path, LEADER)
    assert words[words.index("--node-rank") + 1] == "0"
    assert words[words.index("--dist-init-addr") + 1] == "10.0.0.1:10016"
    words = manifests.run(worker, tmp_path, WORKER)
    assert words[words.index("--node-rank") + 1] == "2"
    # The stub of getent says that every name is 10.0.0.9.
    assert words[words.index("--dist-init-addr") + 1] == "10.0.0.9:10016"


def test_the_ranks_of_a_group_are_dealt_out(tmp_path: Path) -> None:
    _, decode = groups(rendered(layouts.wide()))
    leader, worker = (pod["spec"]["containers"][0] for pod in pods(decode)[:2])
    assert "--headless" not in manifests.run(leader, tmp_path, LEADER)
    words = manifests.run(worker, tmp_path, WORKER)
    assert "--headless" in words
    assert words[words.index("--data-parallel-start-rank") + 1] == "16"
    assert words[words.index("--data-parallel-address") + 1] == "10.0.0.9"


def test_the_sides_of_a_unit_find_one_another(crds: Path, tmp_path: Path) -> None:
    texts = check(layouts.units(2), crds)
    names = {d["metadata"]["name"]: d["spec"] for d in manifests.of_kind(texts, "LeaderWorkerSet")}
    assert {name: group["replicas"] for name, group in names.items()} == {"chat-attention": 2, "chat-ffn": 2}
    services = {service["metadata"]["name"] for service in manifests.of_kind(texts, "Service")}
    for name, group in names.items():
        container = pods(group)[0]["spec"]["containers"][0]
        field = next(e["valueFrom"]["fieldRef"]["fieldPath"] for e in container["env"] if e["name"] == "GROUP_INDEX")
        assert field == f"metadata.labels['{PREFIX}/group-index']"
        words = manifests.run(container, tmp_path, {**LEADER, "GROUP_INDEX": "1"})
        afd = json.loads(words[words.index("--additional-config") + 1])["afd"]
        assert (afd["num_attention_ranks"], afd["num_ffn_ranks"]) == (16, 8)
        # The FFN side is where the two meet: its own address there, found by name on the attention side.
        ffn = name == "chat-ffn"
        assert afd["role"] == ("ffn" if ffn else "attention")
        assert afd["host"] == ("10.0.0.1" if ffn else "10.0.0.9")
        asked = re.search(r'getent hosts "([\w-]+)-\$GROUP_INDEX"', container["args"][0])
        assert asked is not None
        assert f"{asked[1]}-1" in services
        assert asked[1] == ("chat-attention" if ffn else "chat-ffn")


def test_units_decode_what_others_prefilled(crds: Path) -> None:
    texts = check(layouts.units_behind_prefill(), crds)
    assert len(manifests.of_kind(texts, "LeaderWorkerSet")) == 3
    [router] = manifests.of_kind(texts, "Deployment")
    script = router["spec"]["template"]["spec"]["containers"][0]["args"][0]
    assert re.findall(r"--prefill http://([\w-]+):", script) == [f"chat-prefill-{i}" for i in range(3)]
    assert re.findall(r"--decode http://([\w-]+):", script) == [f"chat-attention-{i}" for i in range(2)]


def test_afd_needs_an_engine_that_has_it() -> None:
    with pytest.raises(SpecError, match=r"sglang cannot launch AFD: .* can: vllm"):
        rendered(layouts.units(1, engine=Engine.SGLANG))


def test_one_instance_needs_no_router(crds: Path) -> None:
    texts = check(layouts.twins(), crds)
    [router] = manifests.of_kind(texts, "Deployment")
    assert "--policy round_robin" in router["spec"]["template"]["spec"]["containers"][0]["args"][0]
    texts = check(layouts.single(), crds)
    assert not manifests.of_kind(texts, "Deployment")
    front = next(s for s in manifests.of_kind(texts, "Service") if s["metadata"]["name"] == "chat-router")
    labels = pods(groups(texts)[0])[0]["metadata"]["labels"]
    selector = dict(front["spec"]["selector"])
    assert selector.pop(f"{PREFIX}/worker-index") == "0"
    assert selector.items() <= labels.items()


def test_a_hostile_model_stays_one_word(crds: Path, tmp_path: Path) -> None:
    model = layouts.hostile(tmp_path)
    prefill, _ = groups(check(layouts.deep(model=model), crds))
    folder = tmp_path / "bin"
    folder.mkdir()
    for pod, variables in zip(pods(prefill)[:2], (LEADER, WORKER), strict=True):
        assert model in manifests.run(pod["spec"]["containers"][0], folder, variables)


def test_names_that_services_cannot_have() -> None:
    with pytest.raises(SpecError, match="begins with a digit"):
        rendered(layouts.deep(services=("70b",)))


@pytest.mark.parametrize("engine", [Engine.VLLM, Engine.SGLANG])
def test_routers_wait_as_long_as_engines_may_start(engine: Engine) -> None:
    texts = rendered(layouts.deep(engine))
    probe = pods(groups(texts)[0])[0]["spec"]["containers"][0]["startupProbe"]
    [router] = manifests.of_kind(texts, "Deployment")
    script = router["spec"]["template"]["spec"]["containers"][0]["args"][0]
    [waits] = re.findall(r"--worker-startup-timeout-secs (\d+)", script)
    assert int(waits) >= probe["periodSeconds"] * probe["failureThreshold"] >= 3600


def test_files_say_what_nothing_in_them_does() -> None:
    [text] = [text for name, text in rendered(layouts.rack(Engine.VLLM)).items() if name.endswith(".yaml")]
    comments = [line for line in text.splitlines() if line.startswith("#")]
    assert any("computes decode alone, and nothing here hands KV cache over" in line for line in comments)
    assert any("16 GPUs of an instance in one scale-up domain of 72" in line for line in comments)
    assert any("nvidia.com/gpu.clique" in line for line in comments)
    assert not [line for text in rendered(layouts.deep()).values() for line in text.splitlines() if "domain" in line]
