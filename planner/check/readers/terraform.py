"""Reads node pools for Terraform: the values in `*.tfvars.json` and their declaration in `*.tf`."""

from __future__ import annotations

import re
from collections.abc import Iterator

from planner.check.findings import Findings
from planner.check.folder import Folder
from planner.check.instance import Fleet, NodePool
from planner.check.node import Node
from planner.check.place import Fact, Place
from planner.check.readers.declaration import check_declaration
from planner.check.structure import problems
from specs import catalog
from specs.errors import SpecError

RULE = "terraform"

_SCHEMA = {
    "type": "object",
    "required": ["node_pools"],
    "properties": {
        "node_pools": {
            "type": "object",
            "minProperties": 1,
            "additionalProperties": {
                "type": "object",
                "required": [
                    "gpu", "gpu_memory_bytes", "gpus_per_node", "node_count", "gpus_used", "max_node_count",
                    "nodes_per_domain", "placement_groups", "scale_out_gbit_per_s", "nics_per_node", "labels", "taints",
                ],
                "properties": {
                    "gpu": {"type": "string"},
                    "gpu_memory_bytes": {"type": "integer", "minimum": 1},
                    "gpus_per_node": {"type": "integer", "minimum": 1},
                    "node_count": {"type": "integer", "minimum": 1},
                    "gpus_used": {"type": "integer", "minimum": 1},
                    "max_node_count": {"type": "integer", "minimum": 1},
                    "nodes_per_domain": {"type": "integer", "minimum": 1},
                    "placement_groups": {
                        "type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 1},
                    },
                    "scale_out_gbit_per_s": {"type": "number", "minimum": 0},
                    "nics_per_node": {"type": "integer", "minimum": 1},
                    "labels": {
                        "type": "object",
                        "required": ["cleave/pool", "cleave/gpu"],
                        "properties": {"cleave/pool": {"type": "string"}, "cleave/gpu": {"type": "string"}},
                    },
                    "taints": {
                        "type": "array",
                        "minItems": 1,
                        "maxItems": 1,
                        "items": {
                            "type": "object",
                            "required": ["key", "value", "effect"],
                            "properties": {
                                "key": {"enum": ["nvidia.com/gpu", "amd.com/gpu", "huawei.com/Ascend910"]},
                                "value": {"enum": ["present"]},
                                "effect": {"enum": ["NO_SCHEDULE"]},
                            },
                        },
                    },
                },
            },
        }
    },
}  # fmt: skip
"""Taints keep pods without GPUs away; managed node pools name them so that a GPU driver's own toleration fits."""
_VENDOR_TAINTS = {"nvidia": "nvidia.com/gpu", "amd": "amd.com/gpu", "huawei": "huawei.com/Ascend910"}
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def recognises(folder: Folder) -> bool:
    """Whether the folder holds values for Terraform."""
    return bool(folder.names(suffix=".tfvars.json"))


def read(folder: Folder) -> Fleet:
    """The node pools that are asked for."""
    fleet = Fleet(formats={"terraform"})
    names = folder.names(suffix=".tfvars.json")
    documents = []
    for name in names:
        if not name.endswith(".auto.tfvars.json"):
            folder.findings.doubtful(RULE, Place(name), "Terraform reads only *.auto.tfvars.json by itself")
        document = folder.json(name)
        if document is not None:
            documents.append(document)
    for document in documents:
        wrong = list(problems(document, _SCHEMA))
        for node, message in wrong:
            folder.findings.wrong(RULE, node.place, message, node.path or None)
        pools = document.get("node_pools")
        for name, node in pools.fields.items() if pools is not None and not wrong else ():
            fleet.pools.append(_pool(name, node, folder.findings))
    declarations = folder.names(suffix=".tf")
    folder.read |= set(declarations)
    if not declarations:
        folder.findings.wrong(RULE, Place(names[0]), "is declared by no .tf file")
    for name in declarations:
        check_declaration(folder.files[name], documents, folder.findings)
    return fleet


def _pool(name: str, node: Node, findings: Findings) -> NodePool:
    """A pool, with what its values say about one another checked."""
    for message, place, field in _contradictions(name, node):
        findings.wrong(RULE, place, message, field)

    def fact(field: str) -> Fact[int]:
        value = node.whole(field)
        assert value is not None
        return Fact(value, node.fields[field].place)

    gpu = node.fields["gpu"]
    return NodePool(
        name,
        Fact(str(gpu.value), gpu.place),
        fact("node_count"),
        fact("gpus_per_node"),
        fact("gpus_used"),
        node.place,
        {field: Fact(node.fields[field].plain, node.fields[field].place) for field in node.fields},
    )


def _contradictions(name: str, node: Node) -> Iterator[tuple[str, Place, str]]:
    fields = node.fields
    if not _NAME.fullmatch(name):
        yield "is no name of a pool: lower-case letters, digits and hyphens", node.place, "node_pools"
    gpu = node.text("gpu") or ""
    try:
        spec = catalog.gpu(gpu)
    except SpecError as error:
        yield error.message, fields["gpu"].place, "gpu"
        return
    if spec.id != gpu:
        yield f"must be the id {spec.id}, got {gpu}", fields["gpu"].place, "gpu"
    if node.whole("gpu_memory_bytes") != spec.memory_bytes:
        yield f"{gpu} has {spec.memory_bytes} bytes", fields["gpu_memory_bytes"].place, "gpu_memory_bytes"
    groups = [item.value for item in fields["placement_groups"].items]
    per_domain, count = node.whole("nodes_per_domain") or 1, node.whole("node_count") or 0
    if sum(value for value in groups if type(value) is int) != count:
        yield f"must add up to node_count = {count}", fields["placement_groups"].place, "placement_groups"
    for item in fields["placement_groups"].items:
        if type(item.value) is int and item.value > per_domain:
            yield f"a domain has {per_domain} nodes, got {item.value}", item.place, "placement_groups"
    if count > (node.whole("max_node_count") or 0):
        yield f"must be at most max_node_count, got {count}", fields["node_count"].place, "node_count"
    if node.text("labels", "cleave/pool") != name:
        place = fields["labels"].fields["cleave/pool"].place
        yield f"must be {name}, the pool's name", place, "labels.cleave/pool"
    if node.text("labels", "cleave/gpu") != gpu:
        yield f"must be {gpu}, as gpu is", fields["labels"].fields["cleave/gpu"].place, "labels.cleave/gpu"
    taint = fields["taints"].items[0]
    if taint.text("key") != _VENDOR_TAINTS.get(spec.vendor):
        yield f"must be {_VENDOR_TAINTS.get(spec.vendor)} for {gpu}", taint.place, "taints"
