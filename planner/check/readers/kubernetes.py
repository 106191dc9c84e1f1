"""What the readers of Kubernetes targets share: the documents of a folder, and services in front of pods."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from planner.check.findings import Findings
from planner.check.folder import Folder
from planner.check.manifests import check_schemas, is_manifest
from planner.check.node import Node
from planner.check.readers.pods import Manifests

RULE = "service"


def manifest_files(folder: Folder, recognised: Callable[[Node], bool]) -> list[str]:
    """YAML files that hold an object that a reader knows."""
    found = []
    for name in folder.names():
        if not name.endswith((".yaml", ".yml")) or name in folder.read:
            continue
        text = folder.files[name].text
        likely = "apiVersion" in text or "kind" in text
        if likely and any(recognised(document) for document in folder.peek(name)):
            found.append(name)
    return found


def read_manifests(folder: Folder, names: Sequence[str]) -> Manifests:
    """The objects of files, checked against their schemas."""
    documents = [document for name in names for document in folder.documents(name)]
    objects = []
    for document in documents:
        if is_manifest(document):
            objects.append(document)
        else:
            folder.findings.wrong(
                "schema", document.place, "is no Kubernetes object: it has neither apiVersion nor kind"
            )
    check_schemas(objects, folder.schemas, folder.findings)
    return Manifests(objects, folder.findings)


def check_service(service: Node, port: int | None, findings: Findings) -> None:
    """A service that forwards one port, named http, to the same port of its pods."""
    found = service.get("spec", "ports")
    ports = found.items if found is not None else []
    for entry in ports:
        target = entry.get("targetPort")
        if target is not None and target.value != port:
            findings.wrong(
                RULE, target.place, f"must be {port}, where the server listens, got {target.value}", "targetPort"
            )
        if entry.whole("port") != port:
            place = (entry.get("port") or entry).place
            findings.wrong(RULE, place, f"must be {port}, where others look for the server", "port")
    if len(ports) != 1:
        findings.wrong(RULE, service.place, f"must have one port, got {len(ports)}", "ports")


def selector_of(service: Node) -> dict[str, str]:
    """Labels that a service selects by."""
    selector = service.get("spec", "selector")
    return {name: str(node.value) for name, node in selector.fields.items()} if selector is not None else {}


def selects(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether labels have all that a selector asks for."""
    return all(labels.get(name) == value for name, value in selector.items())
