"""Reads pods of Kubernetes manifests: their GPUs, what they run, and whether what they refer to is there."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from planner.check.asides import is_harmless_variable, without_asides
from planner.check.commands import Commands, Text, spoken_words
from planner.check.findings import Findings
from planner.check.instance import Process
from planner.check.node import Node
from planner.check.place import Fact, Place
from planner.check.script import unknown
from planner.check.shell import Command, read_shell
from specs.errors import SpecError
from specs.service import Engine

RULE = "pod"
GPU_RESOURCE = "nvidia.com/gpu"
PRODUCT_LABEL = "nvidia.com/gpu.product"
POOL_LABEL = "cleave/pool"
COMPONENT_LABEL = "cleave/component"
ROLE_LABEL = "cleave/role"
DEPLOYMENT_LABEL = "cleave/deployment"

GPU_PRODUCTS = {
    "NVIDIA-A100-SXM4-80GB": "a100-sxm-80gb",
    "NVIDIA-B200": "b200-sxm-180gb",
    "NVIDIA-B300-SXM6-AC": "b300-sxm-288gb",
    "NVIDIA-GB200": "gb200-nvl72-186gb",
    "NVIDIA-GB300": "gb300-nvl72-288gb",
    "NVIDIA-H100-80GB-HBM3": "h100-sxm-80gb",
    "NVIDIA-H20": "h20-sxm-96gb",
    "NVIDIA-H200": "h200-sxm-141gb",
    "NVIDIA-H800": "h800-sxm-80gb",
    "NVIDIA-L40S": "l40s-pcie-48gb",
    "NVIDIA-RTX-PRO-6000-Blackwell-Server-Edition": "rtx-pro-6000-96gb",
}
"""GPU of the catalogue by the product name that GPU feature discovery puts on nodes."""
IMAGES = {
    "vllm/vllm-openai": (Engine.VLLM, "v"),
    "lmsysorg/sglang": (Engine.SGLANG, "v"),
    "nvcr.io/nvidia/tensorrt-llm/release": (Engine.TRTLLM, ""),
}
"""Public images of engines, whose tags are the engine's version after a prefix."""
LEAST_SHARED_MEMORY_GIB = 1.0
"""Of /dev/shm per GPU, below which NCCL's buffers do not fit."""
LEAST_START_SECONDS = 600
"""Time to load a model before a pod is restarted."""

_IMAGE = r"[\w.-]+(:\d+)?(/[\w.-]+)*:[\w.-]+"
_IMAGE_WORDS = ("vllm", "sglang", "tensorrt-llm", "tensorrtllm", "trtllm")
"""One of these is in the name of an image that holds an engine, whoever built it."""
_OF_GROUPS = frozenset({"LWS_LEADER_ADDRESS", "LWS_WORKER_INDEX", "LWS_GROUP_SIZE"})
"""Variables that the LeaderWorkerSet controller puts into every pod of a group."""
_SIZES = {"Ki": 2.0**-20, "Mi": 2.0**-10, "Gi": 1.0, "Ti": 2.0**10}


@dataclass(frozen=True)
class Script:
    """What a container runs.

    Args:
        commands: the last of which becomes the engine.
        finding: names that are resolved first, by the variable that gets the address.
        place: of the script.
    """

    commands: tuple[Command, ...]
    finding: Mapping[str, str]
    place: Place


@dataclass
class Manifests:
    """The Kubernetes objects of a folder, and what they offer one another.

    Args:
        documents: all objects.
        findings: where violations go.
    """

    documents: Sequence[Node]
    findings: Findings
    used_maps: set[str] = field(default_factory=set)

    def of_kind(self, *kinds: str) -> list[Node]:
        """Objects of some kinds."""
        return [document for document in self.documents if document.text("kind") in kinds]

    def config_maps(self) -> dict[str, Node]:
        """Config maps by name."""
        return {document.text("metadata", "name") or "": document for document in self.of_kind("ConfigMap")}

    def mounted(self, pod: Node, container: Node) -> dict[str, Text]:
        """Files that config maps put into a container, by path."""
        maps = self.config_maps()
        sources = {volume.text("name"): volume.text("configMap", "name") for volume in _items(pod, "volumes")}
        files: dict[str, Text] = {}
        for mount in _items(container, "volumeMounts"):
            name, path = sources.get(mount.text("name")), mount.text("mountPath")
            if name is None or path is None:
                continue
            if name not in maps:
                self.findings.wrong(
                    RULE, mount.place, f"mounts the config map {name!r}, which is not there", mount.path
                )
                continue
            self.used_maps.add(name)
            data = maps[name].get("data")
            for key, node in data.fields.items() if data is not None else ():
                files[f"{path}/{key}"] = Text(str(node.value), node.place.file, (node.place.line or 0) + 1)
        return files

    def check_maps(self) -> None:
        """Every config map is mounted by something."""
        for name, node in self.config_maps().items():
            if name not in self.used_maps:
                self.findings.wrong(RULE, node.place, f"the config map {name!r} is mounted by nothing")


def _items(node: Node, *keys: str | int) -> list[Node]:
    found = node.get(*keys)
    return found.items if found is not None else []


@dataclass
class Pod:
    """One pod of an instance.

    Args:
        spec: its specification.
        container: the engine's.
        manifests: the objects around it.
        scheduling: where node selector and tolerations stand, where it is not the specification.
        several: whether the instance has more than one pod.
        operator: whether an operator adds shared memory and variables of its own.
    """

    spec: Node
    container: Node
    manifests: Manifests
    scheduling: Node | None = None
    several: bool = False
    operator: bool = False

    @property
    def findings(self) -> Findings:
        """Where violations go."""
        return self.manifests.findings

    @property
    def gpus(self) -> Fact[int]:
        """GPUs that it asks for."""
        limits = self.container.get("resources", "limits", GPU_RESOURCE)
        requests = self.container.get("resources", "requests", GPU_RESOURCE)
        place = limits.place if limits is not None else self.container.place
        text = str(limits.value) if limits is not None else "0"
        if requests is not None and (limits is None or requests.plain != limits.plain):
            self.findings.wrong(RULE, requests.place, "requests of GPUs must equal their limits", requests.path)
        if limits is not None and not re.fullmatch(r"\d{1,6}", text):
            self.findings.wrong(RULE, place, f"must be a whole number of GPUs, got {text[:40]!r}", limits.path)
            return Fact(0, place)
        return Fact(int(text), place)

    @property
    def gpu(self) -> Fact[str] | None:
        """GPU type that its node selector asks for, as an id of the catalogue."""
        where = self.scheduling or self.spec
        product = where.get("nodeSelector", PRODUCT_LABEL)
        if product is None:
            self.findings.wrong(RULE, where.place, f"does not say its GPU type: {PRODUCT_LABEL}", "nodeSelector")
            return None
        gpu = GPU_PRODUCTS.get(str(product.value))
        if gpu is None:
            known = ", ".join(GPU_PRODUCTS)
            self.findings.wrong(
                RULE, product.place, f"is no GPU product that is known; accepted: {known}", PRODUCT_LABEL
            )
            return None
        selector = where.get("nodeSelector")
        for name, node in selector.fields.items() if selector is not None else ():
            if name not in (PRODUCT_LABEL, POOL_LABEL):
                self.findings.wrong(
                    RULE, node.place, f"is a label that nodes do not have; accepted: {POOL_LABEL}", name
                )
        return Fact(gpu, product.place)

    @property
    def pool(self) -> Fact[str] | None:
        """Pool that its node selector asks for."""
        where = self.scheduling or self.spec
        label = where.get("nodeSelector", POOL_LABEL)
        return Fact(str(label.value), label.place) if label is not None else None

    def version(self) -> Fact[str] | None:
        """Version of the engine in its image; None where the image does not say."""
        image = self.container.get("image")
        if image is None:
            self.findings.wrong(RULE, self.container.place, "lacks an image", "image")
            return None
        name, _, tag = str(image.value).rpartition(":")
        known = IMAGES.get(name)
        if known is None:
            if not re.fullmatch(_IMAGE, str(image.value)) or not any(word in name for word in _IMAGE_WORDS):
                message = f"must be an image of an engine with a tag: {', '.join(IMAGES)}, or one named like them"
                self.findings.wrong(RULE, image.place, message, "image")
            return None
        if not tag.startswith(known[1]):
            self.findings.wrong(RULE, image.place, f"must have a version as its tag, got {tag!r}", "image")
            return None
        return Fact(tag.removeprefix(known[1]), image.place)

    def image_engine(self) -> Engine | None:
        """The engine whose public image it is."""
        image = self.container.get("image")
        known = IMAGES.get(str(image.value).rpartition(":")[0]) if image is not None else None
        return known[0] if known is not None else None

    def variables(self) -> dict[str, Node]:
        """Variables of its container."""
        found: dict[str, Node] = {}
        for entry in _items(self.container, "env"):
            name = entry.text("name")
            if name is None:
                continue
            if name in found:
                self.findings.wrong(RULE, entry.place, "is set twice", name)
            found[name] = entry
        return found

    def env(self) -> dict[str, Fact[str]]:
        """Variables with plain values."""
        found = {}
        for name, entry in self.variables().items():
            value = entry.get("value")
            if value is not None and isinstance(value.value, str):
                found[name] = Fact(re.sub(r"\$\((\w+)\)", r"$\1", value.value), value.place)
        return found

    def files(self) -> dict[str, Text]:
        """Files that config maps put into the container."""
        return self.manifests.mounted(self.spec, self.container)

    def check(self, *, serves: str | None) -> None:
        """What every engine pod must have.

        Args:
            serves: port that its server listens on, whose probes say whether it lives; None where it serves nothing.
        """
        self._check_tolerations()
        self._check_resources()
        self._check_volumes()
        self._check_env()
        self._check_probes(serves)
        added = [item.value for item in _items(self.container, "securityContext", "capabilities", "add")]
        if self.gpus.value and added != ["IPC_LOCK"]:
            place = (self.container.get("securityContext") or self.container).place
            self.findings.wrong(RULE, place, "must add the capability IPC_LOCK, and no other: RDMA registers memory")

    def _check_resources(self) -> None:
        """GPUs and nothing else: a resource that no node has leaves the pod waiting."""
        for part in ("limits", "requests"):
            node = self.container.get("resources", part)
            for name, inner in (node.fields if node is not None else {}).items():
                if name != GPU_RESOURCE:
                    self.findings.wrong(RULE, inner.place, "is a resource that plans do not ask for", inner.path)

    def _check_tolerations(self) -> None:
        where = self.scheduling or self.spec
        wanted = [{"key": GPU_RESOURCE, "operator": "Exists", "effect": "NoSchedule"}]
        found = [item.plain for item in _items(where, "tolerations")]
        if self.gpus.value and found != wanted:
            place = (where.get("tolerations") or where).place
            message = f"must tolerate the taint of GPU nodes: key {GPU_RESOURCE}, operator Exists, effect NoSchedule"
            self.findings.wrong(RULE, place, message, "tolerations")

    def _check_volumes(self) -> None:
        volumes = {str(volume.text("name")): volume for volume in _items(self.spec, "volumes")}
        mounted: dict[str, Node] = {}
        for mount in _items(self.container, "volumeMounts"):
            name = str(mount.text("name"))
            mounted[name] = mount
            if name not in volumes:
                self.findings.wrong(
                    RULE, mount.place, f"mounts the volume {name!r}, which is not there", "volumeMounts"
                )
        for name, volume in volumes.items():
            if name not in mounted:
                self.findings.wrong(RULE, volume.place, f"the volume {name!r} is mounted by nothing", "volumes")
            kinds = [key for key in volume.fields if key != "name"]
            if len(kinds) != 1:
                self.findings.wrong(
                    RULE, volume.place, f"must have one source, got {', '.join(kinds) or 'none'}", "volumes"
                )
        self._check_shared_memory(volumes, mounted)

    def _check_shared_memory(self, volumes: Mapping[str, Node], mounted: Mapping[str, Node]) -> None:
        """Processes on several GPUs exchange through /dev/shm, whose default of 64 MiB is too small."""
        gpus = self.gpus.value
        if self.operator or not gpus:
            return
        name = next((name for name, mount in mounted.items() if mount.text("mountPath") == "/dev/shm"), None)
        volume = volumes.get(name) if name is not None else None
        if volume is None or volume.text("emptyDir", "medium") != "Memory":
            place = volume.place if volume is not None else self.container.place
            self.findings.wrong(RULE, place, "must mount memory at /dev/shm: an emptyDir with medium Memory", "volumes")
            return
        self.check_size(volume.get("emptyDir", "sizeLimit"), volume.place)

    def check_size(self, size: Node | None, place: Place) -> None:
        """A size of shared memory in GiB: enough for the GPUs."""
        found = re.fullmatch(r"(\d{1,9})(Ki|Mi|Gi|Ti)", str(size.value)) if size is not None else None
        gib = int(found[1]) * _SIZES[found[2]] if found else 0.0
        if gib < LEAST_SHARED_MEMORY_GIB * self.gpus.value:
            where = size.place if size is not None else place
            shown = size.value if size is not None else "nothing"
            message = f"must be at least {LEAST_SHARED_MEMORY_GIB * self.gpus.value:g}Gi of shared memory, got {shown}"
            self.findings.wrong(RULE, where, message, "sizeLimit")

    def _check_env(self) -> None:
        variables = self.variables()
        paths = [mount.text("mountPath") or "" for mount in _items(self.container, "volumeMounts")]
        for name in ("HF_HOME", "HF_HUB_CACHE"):
            node = variables.get(name)
            value = node.text("value") if node is not None else None
            if node is not None and not any(value == path or str(value).startswith(f"{path}/") for path in paths):
                self.findings.wrong(RULE, node.place, f"must lie in a mounted volume, got {value}", name)
        if "HF_HOME" not in variables:
            self.findings.wrong(RULE, self.container.place, "does not keep models in a mounted volume: HF_HOME", "env")
        pod_ip = variables.get("POD_IP")
        if pod_ip is not None and pod_ip.text("valueFrom", "fieldRef", "fieldPath") != "status.podIP":
            self.findings.wrong(RULE, pod_ip.place, "must be the field status.podIP", "POD_IP")
        token = variables.get("HF_TOKEN")
        if token is not None and token.text("valueFrom", "secretKeyRef", "key") != "HF_TOKEN":
            self.findings.wrong(RULE, token.place, "must be the key HF_TOKEN of a secret", "HF_TOKEN")
        if token is None:
            self.findings.wrong(RULE, self.container.place, "lacks the token that fetches models: HF_TOKEN", "env")
        known = {"POD_IP", "HF_HOME", "HF_HUB_CACHE", "HF_TOKEN", "GROUP_INDEX"}
        for name, node in variables.items():
            if name not in known and node.get("value") is None:
                self.findings.wrong(RULE, node.place, "is a variable that no engine is known to read", name)

    def _check_probes(self, serves: str | None) -> None:
        ports = self.ports()
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            probe = self.container.get(kind)
            if serves is None:
                if probe is not None:
                    self.findings.wrong(RULE, probe.place, "is of a pod that serves nothing", kind)
                continue
            if probe is None:
                self.findings.wrong(RULE, self.container.place, f"lacks its {kind}", kind)
                continue
            port = probe.get("httpGet", "port")
            number = ports.get(str(port.value)) if port is not None else None
            if number is None or str(number.value) != serves:
                place = port.place if port is not None else probe.place
                self.findings.wrong(RULE, place, f"must ask the server's port {serves}, by its name", kind)
            if probe.text("httpGet", "path") != "/health":
                place = (probe.get("httpGet", "path") or probe).place
                self.findings.wrong(RULE, place, "must ask /health", kind)
            if probe.text("httpGet", "scheme") not in (None, "HTTP"):
                self.findings.wrong(RULE, probe.place, "must ask over HTTP", kind)
            self._check_patience(probe, kind)

    def _check_patience(self, probe: Node, kind: str) -> None:
        """Time before a pod is given up: kubelet's defaults are 10 s and 3 failures."""
        period = probe.whole("periodSeconds") if probe.get("periodSeconds") is not None else 10
        failures = probe.whole("failureThreshold") if probe.get("failureThreshold") is not None else 3
        if not period or not failures:
            self.findings.wrong(RULE, probe.place, "must have a period and a threshold of at least 1", kind)
        elif kind == "startupProbe" and period * failures < LEAST_START_SECONDS:
            message = f"gives up after {period * failures} s; models take {LEAST_START_SECONDS} s and more to load"
            self.findings.wrong(RULE, probe.place, message, kind)

    def ports(self) -> dict[str, Node]:
        """Container ports by name."""
        found: dict[str, Node] = {}
        for port in _items(self.container, "ports"):
            number = port.get("containerPort")
            if number is not None:
                found[port.text("name") or ""] = number
        return found

    def check_ports(self, wanted: Mapping[str, int | None]) -> None:
        """The container's ports are those that its server listens on."""
        ports = self.ports()
        for name, number in wanted.items():
            node = ports.get(name)
            if node is None or node.value != number:
                place = node.place if node is not None else self.container.place
                self.findings.wrong(RULE, place, f"must name port {number} {name!r}", "ports")
        for name in ports.keys() - wanted.keys():
            self.findings.wrong(
                RULE, ports[name].place, f"names a port that its server does not have: {name!r}", "ports"
            )

    def script(self) -> Script | None:
        """What `bash -c` runs; None, and a violation, where the container runs something else."""
        return container_script(self.container, self.findings)

    def process(self, script: Script, rank: int, versions: Mapping[Engine, Fact[str]] | None = None) -> Process | None:
        """The engine process of a script on one node of an instance."""
        commands = Commands(self.findings, versions=dict(versions or {}), files=self.files())
        env = self.env()
        variables = {"LWS_WORKER_INDEX": str(rank)}
        words = spoken_words(script.commands[-1], variables)
        known = {*self.variables(), *script.finding, *(_OF_GROUPS if self.several else ())}
        for word in script.commands[-1].words:
            for name in word.parameters - known:
                self.findings.wrong(RULE, word.place, f"uses the variable {name}, which nothing sets", name)
        version = self.version()
        process = commands.process(words, {}, script.commands[-1].place, version=version)
        engine = self.image_engine()
        if process is not None and engine is not None and process.engine is not engine:
            message = f"is {engine.value}'s, and runs {process.engine.value}"
            self.findings.wrong(RULE, self.container.fields["image"].place, message, "image")
        for name, value in env.items():
            if process is not None and not is_harmless_variable(name):
                self.findings.wrong(RULE, value.place, "is a variable that no engine is known to read", name)
        return process


def container_script(container: Node, findings: Findings) -> Script | None:
    """What a container's `bash -c` runs; None, and a violation, where it runs something else."""
    command = [item.value for item in _items(container, "command")]
    args = _items(container, "args")
    if command != ["/bin/bash", "-c"] or len(args) != 1 or not isinstance(args[0].value, str):
        place = (container.get("command") or container).place
        findings.wrong(RULE, place, "must run one script by /bin/bash -c", "command")
        return None
    # The text of a block starts on the line after its dash; `$$` is one dollar to Kubernetes.
    text = args[0].value.replace("$$", "$")
    place = args[0].place
    try:
        commands = read_shell(text, place.file, (place.line or 0) + 1)
    except SpecError as error:
        findings.wrong("file", Place(place.file, error.line), error.message)
        return None
    return _script(commands, place, findings)


def _script(commands: Sequence[Command], place: Place, findings: Findings) -> Script | None:
    """`set -eu`, loops that resolve names, and one `exec`."""
    left = without_asides(commands, findings)
    if not left or [word.raw for word in left[0].words] != ["set", "-eu"]:
        findings.wrong(RULE, place, "must start with `set -eu`, so that a failure ends it")
    else:
        left.pop(0)
    finding: dict[str, str] = {}
    while left and left[0].assignments and not left[0].words:
        variable = left[0].assignments[0][0]
        loop = left[:10]
        target = (
            re.search(r'getent hosts "([^"]+)"', loop[3].assignments[0][1].raw)
            if len(loop) > 3 and loop[3].assignments
            else None
        )
        shapes = [command.shape for command in read_shell(_resolving(variable, target[1] if target else ""), "")]
        if target is None or [command.shape for command in left[: len(shapes)]] != shapes:
            findings.wrong(RULE, left[0].place, "has a loop that cannot be read: it must wait until a name resolves")
            return None
        finding[variable] = target[1]
        left = left[len(shapes) :]
    if not left or left[-1].name != "exec" or left[-1].redirects or left[-1].end != "\n":
        findings.wrong(RULE, place, "must end with `exec` of its engine")
        return None
    for command in left[:-1]:
        if not _installs(command):
            unknown(command, findings)
    return Script(tuple(left), finding, place)


def _installs(command: Command) -> bool:
    """Whether a command installs a router's package of a fixed version."""
    words = [word.raw for word in command.words]
    return words[:5] == ["python3", "-m", "pip", "install", "--quiet"] and len(words) == 6 and "==" in words[5]


def _resolving(variable: str, name: str) -> str:
    """Lines that wait until a name resolves."""
    return (
        f"{variable}=\n"
        f'while [ -z "${variable}" ]; do\n'
        f"  {variable}=$(getent hosts \"{name}\" | head -n 1 | cut -d ' ' -f 1) || true\n"
        f'  [ -n "${variable}" ] || sleep 2\n'
        "done\n"
    )


def labels_of(node: Node) -> dict[str, str]:
    """Labels of a pod template or an object."""
    labels = node.get("metadata", "labels")
    return {name: str(value.value) for name, value in labels.fields.items()} if labels is not None else {}


def check_same_nodes(
    leader: tuple[Fact[str] | None, Fact[str] | None],
    workers: Sequence[tuple[Fact[str] | None, Fact[str] | None]],
    findings: Findings,
) -> None:
    """The workers of a group run on the GPUs and in the pool of their leader."""
    for worker in workers:
        for mine, theirs in zip(worker, leader, strict=True):
            if (mine.value if mine else None) != (theirs.value if theirs else None):
                place = mine.place if mine is not None else theirs.place if theirs is not None else None
                if place is not None:
                    findings.wrong(RULE, place, "workers must run where their leader does", "nodeSelector")
