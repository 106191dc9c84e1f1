"""Reads rendered manifests, without anything of the renderers: schemas, GPUs, scripts."""

import json
import re
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from planner.check.node import Node, read_yaml
from planner.check.structure import problems
from planner.launch.address import Address
from planner.launch.component import Launch
from planner.launch.process import engine_process
from specs.engine_table import engine_table
from specs.errors import SpecError

Document = dict[str, Any]

POD_SCHEMA = Path(__file__).parent.parent.parent / "specs" / "data" / "schemas" / "dynamographdeployment-v1beta1.json"
GPU = "nvidia.com/gpu"
LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")


def documents(files: Mapping[str, str]) -> list[Document]:
    """All documents of all YAML files."""
    return [d for name, text in files.items() if name.endswith(".yaml") for d in yaml.safe_load_all(text)]


def of_kind(files: Mapping[str, str], kind: str) -> list[Document]:
    """The documents of a kind."""
    return [document for document in documents(files) if document.get("kind") == kind]


def check_schema(files: Mapping[str, str], kind: str, definition: Path) -> None:
    """Every document of the kind obeys the schema of its version, unknown fields refused."""
    versions = json.loads(definition.read_text())["versions"]
    for name, text in files.items():
        for node in read_yaml(text, name):
            if node.text("kind") == kind:
                version = str(node.text("apiVersion")).rpartition("/")[2]
                assert set(node.fields) == {"apiVersion", "kind", "metadata", "spec"}
                check_node(node.get("spec"), versions[version]["properties"]["spec"])


def check_pods(files: Mapping[str, str]) -> None:
    """Every pod obeys the core schema, which definitions of resources leave open."""
    versions = json.loads(POD_SCHEMA.read_text())["versions"]
    graph = versions["v1beta1"]["properties"]["spec"]["properties"]["components"]["items"]
    schema = graph["properties"]["podTemplate"]["properties"]["spec"]
    for name, text in files.items():
        for document in read_yaml(text, name):
            for node in document.walk():
                if node.get("containers") is not None:
                    check_node(node, schema)


def check_node(node: Node | None, schema: Mapping[str, Any]) -> None:
    """A value obeys a schema."""
    assert node is not None
    found = [f"{at.path}: {problem}" for at, problem in problems(node, schema)]
    assert not found, found


def limit(pod: Document) -> int:
    """GPUs of a pod: every container's, asked for as text."""
    gpus = [c.get("resources", {}).get("limits", {}).get(GPU, "0") for c in pod["containers"]]
    assert all(isinstance(value, str) for value in gpus)
    return sum(map(int, gpus))


def planned(launch: Launch) -> Counter[tuple[str, str]]:
    """GPUs that the plan uses, by role and GPU product."""
    found: Counter[tuple[str, str]] = Counter()
    pools = {pool.name: pool.gpu.id.split("-")[0] for pool in launch.pools.values()}
    for service in launch.plan.services:
        for deployment in service.deployments:
            for pool in deployment.pools:
                found[pool.role.value, pools[pool.gpu_pool]] += pool.replicas * pool.gpus_per_replica
    return found


def product(pod: Document) -> str:
    """The GPU that a pod selects, as the catalogue's ids begin."""
    name = pod["nodeSelector"]["nvidia.com/gpu.product"].removeprefix("NVIDIA-")
    return str(name.split("-")[0].lower())


def check_names(files: Mapping[str, str]) -> None:
    """Names are DNS labels, and no two objects of a kind have the same."""
    taken = Counter((d["kind"], d["metadata"]["name"]) for d in documents(files) if "kind" in d)
    assert set(taken.values()) <= {1}
    for _, name in taken:
        assert LABEL.fullmatch(name)
        assert len(name) <= 63


def containers(value: object) -> Iterator[Document]:
    """Every container in a document."""
    if isinstance(value, dict):
        yield from value.get("containers", []) if isinstance(value.get("containers"), list) else []
        for inner in value.values():
            yield from containers(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from containers(inner)


def selectors(value: object) -> Iterator[dict[str, str]]:
    """Every node selector in a document."""
    if isinstance(value, dict):
        if isinstance(value.get("nodeSelector"), dict):
            yield value["nodeSelector"]
        for inner in value.values():
            yield from selectors(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from selectors(inner)


def expanded(words: list[str], variables: Mapping[str, str]) -> list[str]:
    """Words of `command` and `args` as the kubelet hands them to the process."""

    def replaced(found: re.Match[str]) -> str:
        if found[0] == "$$":
            return "$"
        return variables.get(found[1], found[0])

    return [re.sub(r"\$\$|\$\(([^)]*)\)", replaced, word) for word in words]


def run(container: Document, folder: Path, variables: Mapping[str, str]) -> list[str]:
    """The words of the engine's command as a pod would run it, the engine being replaced by one that prints them."""
    stub = '#!/bin/bash\nprintf "%s\\0" "$(basename "$0")" "$@"\n'
    for name in ("vllm", "python3", "trtllm-serve"):
        (folder / name).write_text(stub)
        (folder / name).chmod(0o755)
    (folder / "getent").write_text('#!/bin/bash\necho "10.0.0.9   $2"\n')
    (folder / "getent").chmod(0o755)
    words = expanded([*container["command"], *container.get("args", [])], {**variables, "HF_TOKEN": "secret"})
    env = {"PATH": f"{folder}:/usr/bin:/bin", **variables}
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=True, timeout=20)
    return done.stdout.split("\0")[:-1]


def refusal(wanted: Launch) -> str | None:
    """Why an engine cannot launch a component, whatever the target; None where all can be launched."""
    for deployment in wanted.deployments:
        for component in deployment.components:
            partner = next((c for c in deployment.components if c is not component and c.plan.unit is not None), None)
            try:
                engine_process(
                    component, engine_table(component.service.engine, mode=component.mode), Address(), partner=partner
                )
            except SpecError as error:
                return error.message
    return None


def check_scripts(files: Mapping[str, str]) -> None:
    """Bash can read every script."""
    for document in documents(files):
        for container in containers(document):
            if container.get("command", [""])[0] == "/bin/bash":
                script = container["args"][0]
                subprocess.run(["/bin/bash", "-n"], input=script, text=True, check=True, timeout=20)
