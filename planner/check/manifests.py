"""Kubernetes manifests against the schemas of their kinds, and what manifests say about one another."""

from __future__ import annotations

from collections.abc import Iterable

from planner.check.core_kinds import CORE, pod_problems
from planner.check.findings import Findings
from planner.check.node import Node
from planner.check.schemas import Schemas
from planner.check.structure import problems

RULE = "schema"


def is_manifest(document: Node) -> bool:
    """Whether a document is a Kubernetes object, or was meant to be."""
    return "apiVersion" in document.fields or "kind" in document.fields


def check_schemas(documents: Iterable[Node], schemas: Schemas, findings: Findings) -> None:
    """Note everything in manifests that their schemas do not accept; a kind without a schema is noted as skipped."""
    seen: dict[tuple[str, str, str], Node] = {}
    for document in documents:
        version, kind = document.text("apiVersion"), document.text("kind")
        if version is None or kind is None:
            lacking = "apiVersion" if version is None else "kind"
            findings.wrong(RULE, document.place, f"lacks {lacking}, or it is no text", lacking)
            continue
        schema = schemas.find(version, kind)
        if schema is None:
            known = schemas.versions(kind)
            if known:
                place = document.fields["apiVersion"].place
                findings.wrong(RULE, place, f"{kind} is not of {version}; known: {', '.join(known)}", "apiVersion")
            elif version in {group for group, _ in CORE}:
                accepted = ", ".join(sorted(k for v, k in CORE if v == version))
                place = document.fields["kind"].place
                findings.wrong(
                    RULE, place, f"{kind} is no kind of {version} in launch files; known: {accepted}", "kind"
                )
            else:
                findings.skip(document.place.file, f"{kind} {version}", "no schema of this kind; give one with --crds")
        else:
            for node, message in problems(document, schema):
                findings.wrong(RULE, node.place, message, node.path or None)
        if version not in {group for group, _ in CORE}:
            for node, message in pod_problems(document):
                findings.wrong(RULE, node.place, message, node.path or None)
        name = document.text("metadata", "name")
        if name is None:
            findings.wrong(RULE, document.place, "lacks a name", "metadata.name")
            continue
        key = (version.rpartition("/")[0], kind, name)
        if key in seen:
            first = seen[key].place
            message = f"{kind} {name} is there twice (first in {first.file}, line {first.line})"
            findings.wrong(RULE, document.place, message, "metadata.name")
        seen.setdefault(key, document)
