"""Structural schemas of the core Kubernetes kinds that launch files use, as far as they use them.

Fields of API version v1 / apps/v1 / batch/v1 that a launch file for an inference engine may carry; a field outside is
refused, and is either a mistake or one to add here.
Source: Kubernetes API reference v1.33 (PodSpec v1, Container v1, Service v1, Deployment apps/v1, ConfigMap v1).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from planner.check.node import Node
from planner.check.structure import Problem, problems

_Schema = dict[str, Any]

_DNS_LABEL = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
_DNS_NAME = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
_QUANTITY = r"^[0-9]+(\.[0-9]+)?([eE][0-9]+|m|[kMGTPE]i?|Ki)?$"
_LABEL_VALUE = r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$"

_TEXT: _Schema = {"type": "string"}
_LABEL: _Schema = {"type": "string", "pattern": _DNS_LABEL}
_BOOL: _Schema = {"type": "boolean"}
_WHOLE: _Schema = {"type": "integer", "minimum": 0}
_PORT: _Schema = {"type": "integer", "minimum": 1, "maximum": 65535}
_PORT_OR_NAME: _Schema = {"x-kubernetes-int-or-string": True}
_QUANTITIES: _Schema = {
    "type": "object",
    "additionalProperties": {"x-kubernetes-int-or-string": True, "pattern": _QUANTITY},
}
_LABELS: _Schema = {
    "type": "object",
    "additionalProperties": {"type": "string", "maxLength": 63, "pattern": _LABEL_VALUE},
}
_STRINGS: _Schema = {"type": "object", "additionalProperties": _TEXT}
_ANY: _Schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}


def _object(required: tuple[str, ...] = (), **properties: _Schema) -> _Schema:
    return {"type": "object", "properties": properties, "required": list(required)}


def _list(items: _Schema, least: int = 0, key: str | None = None) -> _Schema:
    schema: _Schema = {"type": "array", "items": items, "minItems": least}
    if key is not None:
        schema |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}
    return schema


METADATA: Final = _object(
    name={"type": "string", "maxLength": 253, "pattern": _DNS_NAME},
    namespace=_LABEL,
    labels=_LABELS,
    annotations=_STRINGS,
)
_TEMPLATE_METADATA = _object(labels=_LABELS, annotations=_STRINGS)
_REFERENCE = _object(("name",), name=_TEXT, optional=_BOOL)
_KEY_REFERENCE = _object(("name", "key"), name=_TEXT, key=_TEXT, optional=_BOOL)
_ENV = _object(
    ("name",),
    name={"type": "string", "pattern": r"^[-._a-zA-Z][-._a-zA-Z0-9]*$"},
    value=_TEXT,
    valueFrom=_object(
        fieldRef=_object(("fieldPath",), fieldPath=_TEXT, apiVersion=_TEXT),
        resourceFieldRef=_object(("resource",), resource=_TEXT, containerName=_TEXT, divisor=_PORT_OR_NAME),
        secretKeyRef=_KEY_REFERENCE,
        configMapKeyRef=_KEY_REFERENCE,
    ),
)
_HTTP_GET = _object(
    ("port",), path=_TEXT, port=_PORT_OR_NAME, host=_TEXT, scheme={"type": "string", "enum": ["HTTP", "HTTPS"]}
)
_PROBE = _object(
    httpGet=_HTTP_GET,
    tcpSocket=_object(("port",), port=_PORT_OR_NAME, host=_TEXT),
    exec=_object(command=_list(_TEXT, 1)),
    initialDelaySeconds=_WHOLE,
    periodSeconds=_WHOLE,
    timeoutSeconds=_WHOLE,
    successThreshold=_WHOLE,
    failureThreshold=_WHOLE,
    terminationGracePeriodSeconds=_WHOLE,
)
_RESOURCES = _object(limits=_QUANTITIES, requests=_QUANTITIES, claims=_list(_object(("name",), name=_TEXT)))
CONTAINER: Final = _object(
    ("name",),
    name=_LABEL,
    image={"type": "string", "pattern": r"^\S+$"},
    imagePullPolicy={"type": "string", "enum": ["Always", "IfNotPresent", "Never"]},
    command=_list(_TEXT),
    args=_list(_TEXT),
    workingDir=_TEXT,
    env=_list(_ENV),
    envFrom=_list(_object(configMapRef=_REFERENCE, secretRef=_REFERENCE, prefix=_TEXT)),
    ports=_list(
        _object(
            ("containerPort",),
            containerPort=_PORT,
            hostPort=_PORT,
            name={"type": "string", "maxLength": 15, "pattern": _DNS_LABEL},
            protocol={"type": "string", "enum": ["TCP", "UDP", "SCTP"]},
        )
    ),
    resources=_RESOURCES,
    volumeMounts=_list(
        _object(("name", "mountPath"), name=_TEXT, mountPath=_TEXT, subPath=_TEXT, readOnly=_BOOL), key="mountPath"
    ),
    readinessProbe=_PROBE,
    livenessProbe=_PROBE,
    startupProbe=_PROBE,
    lifecycle=_ANY,
    securityContext=_ANY,
    restartPolicy={"type": "string", "enum": ["Always"]},
    stdin=_BOOL,
    tty=_BOOL,
)
_VOLUME = _object(
    ("name",),
    name=_LABEL,
    emptyDir=_object(medium={"type": "string", "enum": ["", "Memory"]}, sizeLimit=_PORT_OR_NAME),
    configMap=_object(
        name=_TEXT,
        items=_list(_object(("key", "path"), key=_TEXT, path=_TEXT, mode=_WHOLE)),
        defaultMode=_WHOLE,
        optional=_BOOL,
    ),
    secret=_object(secretName=_TEXT, optional=_BOOL, defaultMode=_WHOLE),
    hostPath=_object(("path",), path=_TEXT, type=_TEXT),
    persistentVolumeClaim=_object(("claimName",), claimName=_TEXT, readOnly=_BOOL),
)
POD: Final = _object(
    containers=_list(CONTAINER, 1, "name"),
    initContainers=_list(CONTAINER, 0, "name"),
    volumes=_list(_VOLUME, 0, "name"),
    nodeSelector=_LABELS,
    affinity=_ANY,
    tolerations=_list(
        _object(
            key=_TEXT,
            operator={"type": "string", "enum": ["Exists", "Equal"]},
            value=_TEXT,
            effect={"type": "string", "enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"]},
            tolerationSeconds=_WHOLE,
        )
    ),
    topologySpreadConstraints=_list(_ANY),
    restartPolicy={"type": "string", "enum": ["Always", "OnFailure", "Never"]},
    hostNetwork=_BOOL,
    hostIPC=_BOOL,
    hostPID=_BOOL,
    hostname=_LABEL,
    subdomain=_LABEL,
    dnsPolicy={"type": "string", "enum": ["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"]},
    serviceAccountName=_TEXT,
    imagePullSecrets=_list(_object(name=_TEXT)),
    priorityClassName=_TEXT,
    runtimeClassName=_TEXT,
    schedulerName=_TEXT,
    securityContext=_ANY,
    shareProcessNamespace=_BOOL,
    terminationGracePeriodSeconds=_WHOLE,
    enableServiceLinks=_BOOL,
)
_POD_TEMPLATE = _object(("spec",), metadata=_TEMPLATE_METADATA, spec=POD)
_SELECTOR = _object(matchLabels=_LABELS, matchExpressions=_list(_ANY))
_SERVICE = _object(
    selector=_LABELS,
    ports=_list(
        _object(
            ("port",),
            port=_PORT,
            targetPort=_PORT_OR_NAME,
            nodePort=_PORT,
            name=_LABEL,
            protocol={"type": "string", "enum": ["TCP", "UDP", "SCTP"]},
            appProtocol=_TEXT,
        )
    ),
    type={"type": "string", "enum": ["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"]},
    clusterIP={"type": "string", "enum": ["None", ""]},
    publishNotReadyAddresses=_BOOL,
    sessionAffinity={"type": "string", "enum": ["None", "ClientIP"]},
)
_WORKLOAD = _object(
    ("selector", "template"),
    replicas=_WHOLE,
    selector=_SELECTOR,
    template=_POD_TEMPLATE,
    strategy=_ANY,
    minReadySeconds=_WHOLE,
    revisionHistoryLimit=_WHOLE,
    progressDeadlineSeconds=_WHOLE,
    serviceName=_TEXT,
    podManagementPolicy={"type": "string", "enum": ["OrderedReady", "Parallel"]},
)


def _kind(**properties: _Schema) -> _Schema:
    return _object(("apiVersion", "kind", "metadata"), apiVersion=_TEXT, kind=_TEXT, metadata=METADATA, **properties)


CORE: Final[dict[tuple[str, str], _Schema]] = {
    ("v1", "Service"): _kind(spec=_SERVICE),
    ("v1", "ConfigMap"): _kind(data=_STRINGS, immutable=_BOOL),
    ("v1", "Namespace"): _kind(),
    ("v1", "ServiceAccount"): _kind(),
    ("apps/v1", "Deployment"): _kind(spec=_WORKLOAD),
    ("apps/v1", "StatefulSet"): _kind(spec=_WORKLOAD),
}
"""Schema by API version and kind."""


def pod_problems(node: Node) -> Iterator[Problem]:
    """What is wrong in the pod specs and containers inside a manifest, wherever its own schema leaves them open."""
    for inner in node.walk():
        containers = inner.get("containers")
        if containers is not None and isinstance(containers.value, list):
            yield from problems(inner, POD)
