"""Reads values of llm-d's modelservice Helm chart and of the InferencePool chart beside them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from planner.check.core_kinds import CONTAINER, POD
from planner.check.findings import Findings
from planner.check.folder import Folder
from planner.check.instance import Fleet, Instance, Seat
from planner.check.node import Node, read_yaml
from planner.check.place import Fact, Place
from planner.check.readers.pods import Manifests, Pod
from planner.check.rules.memory import model_name
from planner.check.structure import problems
from specs.errors import SpecError
from specs.plan import Role

RULE = "llm-d"
MAX_NODES = 1000
SERVING = "llm-d.ai/inference-serving"
MODEL = "llm-d.ai/model"

_TEXT: dict[str, Any] = {"type": "string"}
_WHOLE: dict[str, Any] = {"type": "integer", "minimum": 0}
_LABELS: dict[str, Any] = {
    "type": "object",
    "required": [SERVING, MODEL],
    "properties": {SERVING: {"type": "string", "enum": ["true"]}, MODEL: _TEXT},
}
_SIDE: dict[str, Any] = {
    "type": "object",
    "required": ["create", "replicas"],
    "properties": {
        "create": {"type": "boolean"},
        "replicas": _WHOLE,
        "parallelism": {
            "type": "object",
            "required": ["tensor", "data", "dataLocal", "workers"],
            "properties": {
                name: {"type": "integer", "minimum": 1} for name in ("tensor", "data", "dataLocal", "workers")
            },
        },
        "containers": {
            "type": "array",
            "minItems": 1,
            "maxItems": 1,
            "items": {
                **CONTAINER,
                "properties": {
                    **CONTAINER["properties"],
                    "modelCommand": {"type": "string", "enum": ["custom"]},
                    "mountModelVolume": {"type": "boolean", "enum": [False]},
                },
                "required": ["name", "modelCommand", "mountModelVolume"],
            },
        },
        "volumes": POD["properties"]["volumes"],
        "extraConfig": {
            "type": "object",
            "properties": {key: POD["properties"][key] for key in ("nodeSelector", "tolerations")},
        },
    },
}
_VALUES: dict[str, Any] = {
    "type": "object",
    "required": ["fullnameOverride", "multinode", "modelArtifacts", "routing", "decode", "prefill"],
    "properties": {
        "fullnameOverride": {"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"},
        "multinode": {"type": "boolean"},
        "modelArtifacts": {
            "type": "object",
            "required": ["name", "uri", "authSecretName", "labels"],
            "properties": {"name": _TEXT, "uri": _TEXT, "authSecretName": _TEXT, "labels": _LABELS},
        },
        "routing": {
            "type": "object",
            "required": ["servicePort", "proxy"],
            "properties": {
                "servicePort": {"type": "integer", "minimum": 1024, "maximum": 65535},
                "proxy": {
                    "type": "object",
                    "required": ["enabled", "targetPort", "connector", "secure"],
                    "properties": {
                        "enabled": {"type": "boolean"},
                        "targetPort": {"type": "integer", "minimum": 1024, "maximum": 65535},
                        "connector": {"type": "string", "enum": ["nixlv2"]},
                        "secure": {"type": "boolean", "enum": [False]},
                    },
                },
            },
        },
        "decode": _SIDE,
        "prefill": _SIDE,
    },
}
"""Values that are set, of llm-d-modelservice v0.4.0 (`values.yaml`, `values.schema.json`)."""
_POOL: dict[str, Any] = {
    "type": "object",
    "required": ["inferenceExtension", "inferencePool"],
    "properties": {
        "inferenceExtension": {
            "type": "object",
            "required": ["replicas"],
            "properties": {
                "replicas": {"type": "integer", "enum": [1]},
                "image": {
                    "type": "object",
                    "required": ["hub", "name", "tag"],
                    "properties": {
                        "hub": _TEXT,
                        "name": {"type": "string", "enum": ["llm-d-inference-scheduler"]},
                        "tag": {"type": "string", "pattern": r"^v\d+\.\d+\.\d+"},
                    },
                },
                "pluginsConfigFile": _TEXT,
                "pluginsCustomConfig": {"type": "object", "additionalProperties": _TEXT},
            },
        },
        "inferencePool": {
            "type": "object",
            "required": ["targetPorts", "modelServerType", "modelServers"],
            "properties": {
                "targetPorts": {
                    "type": "array",
                    "minItems": 1,
                    "maxItems": 1,
                    "items": {"type": "object", "required": ["number"], "properties": {"number": _WHOLE}},
                },
                "modelServerType": {"type": "string", "enum": ["vllm"]},
                "modelServers": {
                    "type": "object",
                    "required": ["matchLabels"],
                    "properties": {"matchLabels": _LABELS},
                },
            },
        },
    },
}
_PICKER_PLUGINS = ("prefill-header-handler", "prefill-filter", "decode-filter", "queue-scorer", "pd-profile-handler")
"""Plugins without which the endpoint picker does not split requests into prefill and decode."""


def recognises(folder: Folder) -> bool:
    """Whether the folder holds values of the chart."""
    return bool(_files(folder))


def _files(folder: Folder) -> list[str]:
    names = [name for name in folder.names(suffix=".yaml") if "/" in name]
    return [name for name in names if any("modelArtifacts" in document.fields for document in folder.peek(name))]


def read(folder: Folder) -> Fleet:
    """The instances of all releases."""
    fleet = Fleet(formats={"llm-d"})
    for deployment in sorted({name.rpartition("/")[0] for name in _files(folder)}):
        _Deployment(deployment, folder, fleet).read()
    return fleet


class _Deployment:
    """The releases in one folder, and the pool of servers in front of them."""

    def __init__(self, name: str, folder: Folder, fleet: Fleet) -> None:
        self.name = name
        self.folder = folder
        self.findings = folder.findings
        self.fleet = fleet
        self.labels: Node | None = None
        self.service_port: int | None = None
        self.proxied: bool | None = None

    def read(self) -> None:
        names = [name for name in _files(self.folder) if name.startswith(f"{self.name}/")]
        seen: set[str] = set()
        for name in names:
            for values in self.folder.documents(name):
                wrong = list(problems(values, _VALUES))
                for node, message in wrong:
                    self.findings.wrong("schema", node.place, message, node.path or None)
                if not wrong:
                    release = str(values.fields["fullnameOverride"].value)
                    if release in seen:
                        place = values.fields["fullnameOverride"].place
                        self.findings.wrong("name", place, f"the release {release} is there twice", "fullnameOverride")
                    seen.add(release)
                    self._release(values, release)
        pool = f"{self.name}/inferencepool.yaml"
        if pool not in self.folder.files:
            self.findings.wrong(
                RULE, Place(names[0]), "has no inferencepool.yaml beside it: nothing routes to its pods"
            )
            return
        for document in self.folder.documents(pool):
            self._pool(document)

    def _release(self, values: Node, release: str) -> None:
        sides = {Role.PREFILL: values.fields["prefill"], Role.DECODE: values.fields["decode"]}
        deployment = str(values.get("modelArtifacts", "labels", MODEL).value)  # type: ignore[union-attr]
        if self.labels is not None and self.labels.plain != values.get("modelArtifacts", "labels").plain:  # type: ignore[union-attr]
            self.findings.wrong(RULE, values.place, "has other labels than the releases beside it", "labels")
        self.labels = values.get("modelArtifacts", "labels")
        self.service_port = values.whole("routing", "servicePort")
        if not re.fullmatch(rf"{re.escape(deployment)}(-\d+)?", release) or deployment != self.name.rpartition("/")[2]:
            place = values.fields["fullnameOverride"].place
            message = f"release {release!r} and label {deployment!r} must be named like their folder, {self.name!r}"
            self.findings.wrong(RULE, place, message, "fullnameOverride")
        proxied = values.get("routing", "proxy", "enabled")
        assert proxied is not None
        self.proxied = proxied.value is True
        found: list[Instance] = []
        for role, side in sides.items():
            instance = self._side(values, side, role, deployment, release)
            if instance is not None:
                found.append(instance)
        several = any(instance.nodes > 1 for instance in found)
        if values.fields["multinode"].value is not several:
            place = values.fields["multinode"].place
            self.findings.wrong(RULE, place, f"must be {str(several).lower()}, as its pods are", "multinode")
        if values.text("modelArtifacts", "authSecretName"):
            place = values.fields["modelArtifacts"].fields["authSecretName"].place
            self.findings.wrong(RULE, place, "must be empty: containers have the token themselves", "authSecretName")
        self._check_model(values, found)
        self.fleet.instances += found

    def _check_model(self, values: Node, found: list[Instance]) -> None:
        for instance in found:
            loaded = model_name(instance)
            for key, wanted in (("name", loaded), ("uri", f"hf://{loaded}")):
                node = values.get("modelArtifacts", key)
                if node is not None and node.value != wanted:
                    self.findings.wrong(RULE, node.place, f"must be {wanted}, which the engine loads", key)

    def _side(self, values: Node, side: Node, role: Role, deployment: str, release: str) -> Instance | None:
        copies = side.whole("replicas") or 0
        if side.fields["create"].value is not (copies > 0):
            self.findings.wrong(RULE, side.fields["create"].place, f"must be {str(copies > 0).lower()}", "create")
        if side.fields["create"].value is not True:
            return None
        lacking = [key for key in ("parallelism", "containers", "volumes", "extraConfig") if key not in side.fields]
        if lacking:
            self.findings.wrong(RULE, side.place, f"lacks {', '.join(lacking)}", role.value)
            return None
        nodes = side.whole("parallelism", "workers") or 1
        pod = Pod(
            side, side.fields["containers"].items[0], Manifests((), self.findings), side.get("extraConfig"), nodes > 1
        )
        script = pod.script()
        if script is None or nodes > MAX_NODES:
            return None
        wanted = {"LEADER_HOST": "$LWS_LEADER_ADDRESS"} if nodes > 1 else {}
        if dict(script.finding) != wanted:
            message = "pods of a group look for their leader, and others for nobody"
            self.findings.wrong(RULE, script.place, message, "LEADER_HOST")
        leader = "$LEADER_HOST" if nodes > 1 else "$POD_IP"
        seats = [Seat(pod.gpus, pod.process(script, rank), host="$POD_IP", leader=leader) for rank in range(nodes)]
        process = seats[0].process
        port = process.arguments.whole("port") if process is not None else None
        behind = self.proxied and role is Role.DECODE
        expected = values.whole("routing", "proxy", "targetPort") if behind else values.whole("routing", "servicePort")
        if process is not None and port != expected:
            message = f"must be {expected}, where {'the routing sidecar' if behind else 'the pool'} looks for it"
            self.findings.wrong(RULE, process.arguments.place_of("port"), message, "port")
        if behind and expected == values.whole("routing", "servicePort"):
            place = values.fields["routing"].fields["proxy"].place
            self.findings.wrong(
                "ports", place, "the sidecar and the engine of a pod need ports of their own", "targetPort"
            )
        pod.check(serves=str(port) if port is not None else None)
        pod.check_ports({pod.container.text("name") or "": port})
        if pod.container.text("name") != "vllm":
            self.findings.wrong(RULE, pod.container.place, "must be named vllm, as the chart's container is", "name")
        moves = process is not None and process.arguments.argument("kv_transfer_config") is not None
        if moves != self.proxied:
            place = values.fields["routing"].fields["proxy"].place
            self.findings.wrong(
                RULE, place, "goes with engines that hand over KV caches, and only with them", "enabled"
            )
        self._check_degrees(side, seats)
        number = release.removeprefix(deployment)
        named = role if role is Role.PREFILL or moves else Role.MIXED
        return Instance(
            name=f"{deployment}-{named.value}{number}",
            component=f"{deployment}-{named.value}{number}",
            seats=tuple(seats),
            copies=Fact(copies, side.fields["replicas"].place),
            place=side.place,
            pool=pod.pool,
            service=Fact(deployment, side.place),
            role=Fact(named, side.place),
            gpu=pod.gpu,
            routed=True,
        )

    def _check_degrees(self, side: Node, seats: list[Seat]) -> None:
        """`parallelism` repeats what the command says."""
        process = seats[0].process
        if process is None:
            return
        dp = process.arguments.whole("data_parallel") or 1
        said = {
            "tensor": process.arguments.whole("tensor_parallel") or 1,
            "data": dp,
            "dataLocal": dp // len(seats),
        }
        for name, value in said.items():
            node = side.fields["parallelism"].fields[name]
            if node.value != value:
                self.findings.wrong(RULE, node.place, f"must be {value}, as the command has it", f"parallelism.{name}")

    def _pool(self, document: Node) -> None:
        """Values of the pool: it selects the pods, at their port, and splits requests where there are two sides."""
        wrong = list(problems(document, _POOL))
        for node, message in wrong:
            self.findings.wrong("schema", node.place, message, node.path or None)
        if wrong or self.labels is None:
            return
        labels = document.get("inferencePool", "modelServers", "matchLabels")
        port = document.get("inferencePool", "targetPorts", 0, "number")
        assert labels is not None
        assert port is not None
        if labels.plain != self.labels.plain:
            self.findings.wrong(
                RULE, labels.place, f"must be {self.labels.plain}, the labels of the pods", "matchLabels"
            )
        if port.value != self.service_port:
            self.findings.wrong(RULE, port.place, f"must be {self.service_port}, the service port", "targetPorts")
        _check_picker(document, split=bool(self.proxied), findings=self.findings)


def _check_picker(document: Node, *, split: bool, findings: Findings) -> None:
    """The endpoint picker's own configuration."""
    extension = document.fields["inferenceExtension"]
    name = extension.text("pluginsConfigFile")
    custom = extension.get("pluginsCustomConfig")
    given = {"image", "pluginsConfigFile", "pluginsCustomConfig"} & extension.fields.keys()
    if not split:
        for key in sorted(given):
            findings.wrong(
                RULE, extension.fields[key].place, "is for prefill and decode pods, and there is one kind", key
            )
        return
    text = custom.get(name) if custom is not None and name is not None else None
    if len(given) < 3 or text is None or not isinstance(text.value, str) or len(custom.fields) != 1:  # type: ignore[union-attr]
        findings.wrong(RULE, extension.place, "must bring the endpoint picker's configuration", "pluginsCustomConfig")
        return
    try:
        documents = read_yaml(text.value, text.place.file, (text.place.line or 0) + 1)
    except SpecError as error:
        findings.wrong("file", Place(text.place.file, error.line), error.message)
        return
    if len(documents) != 1:
        findings.wrong(RULE, text.place, "must be one document", "pluginsCustomConfig")
        return
    _check_plugins(documents[0], findings)


_PLUGIN: dict[str, Any] = {
    "type": "object",
    "required": ["type"],
    "properties": {
        "type": {"type": "string", "enum": list(_PICKER_PLUGINS)},
        "parameters": {
            "type": "object",
            "required": ["threshold"],
            "properties": {"threshold": {"type": "integer", "enum": [0]}},
        },
    },
}
_PICKER: Mapping[str, Any] = {
    "type": "object",
    "required": ["apiVersion", "kind", "plugins", "schedulingProfiles"],
    "properties": {
        "apiVersion": {"type": "string", "enum": ["inference.networking.x-k8s.io/v1alpha1"]},
        "kind": {"type": "string", "enum": ["EndpointPickerConfig"]},
        "plugins": {"type": "array", "items": _PLUGIN},
        "schedulingProfiles": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name", "plugins"],
                "properties": {
                    "name": {"type": "string", "enum": ["prefill", "decode"]},
                    "plugins": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "required": ["pluginRef"],
                            "properties": {"pluginRef": _TEXT, "weight": {"type": "number", "minimum": 0}},
                        },
                    },
                },
            },
        },
    },
}


def _check_plugins(config: Node, findings: Findings) -> None:
    """Every request is prefilled and decoded by different pods: threshold 0, one filter in each profile."""
    wrong = list(problems(config, _PICKER))
    for node, message in wrong:
        findings.wrong(RULE, node.place, message, node.path or None)
    if wrong:
        return
    types = [plugin.text("type") for plugin in config.fields["plugins"].items]
    if sorted(map(str, types)) != sorted(_PICKER_PLUGINS):
        message = f"must be {', '.join(_PICKER_PLUGINS)}, each once"
        findings.wrong(RULE, config.fields["plugins"].place, message, "plugins")
    for plugin in config.fields["plugins"].items:
        if ("parameters" in plugin.fields) != (plugin.text("type") == "pd-profile-handler"):
            findings.wrong(RULE, plugin.place, "only pd-profile-handler has a threshold, which must be 0", "parameters")
    profiles = {
        profile.text("name"): [plugin.text("pluginRef") for plugin in profile.fields["plugins"].items]
        for profile in config.fields["schedulingProfiles"].items
    }
    wanted = {side: [f"{side}-filter", "queue-scorer"] for side in ("prefill", "decode")}
    if profiles != wanted or len(config.fields["schedulingProfiles"].items) != len(wanted):
        message = "must be prefill and decode, each with its own filter and queue-scorer"
        findings.wrong(RULE, config.fields["schedulingProfiles"].place, message, "schedulingProfiles")
