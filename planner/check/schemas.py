"""Schemas of Kubernetes kinds: core ones, those that ship with Cleave, and those of the user's cluster."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from planner.check.core_kinds import CORE, METADATA
from specs.errors import SpecError

MAX_SCHEMA_BYTES = 16_000_000
OPTION = "--crds"


@dataclass(frozen=True)
class Schemas:
    """Schemas by API version and kind."""

    by_kind: Mapping[tuple[str, str], Mapping[str, Any]]

    def find(self, api_version: str, kind: str) -> Mapping[str, Any] | None:
        """The schema of a kind, or None."""
        return self.by_kind.get((api_version, kind))

    def versions(self, kind: str) -> list[str]:
        """API versions of a kind that there are schemas for."""
        return sorted(version for version, known in self.by_kind if known == kind)


def load_schemas(folder: Path | None) -> Schemas:
    """Core schemas, shipped ones, and those in a folder.

    Args:
        folder: JSON files of `{group, kind, versions: {version: schema}}`, or JSON and YAML files of
            CustomResourceDefinitions.

    Raises:
        SpecError: the folder or a file in it cannot be read, or holds no schema.
    """
    found: dict[tuple[str, str], Mapping[str, Any]] = {**CORE, **_shipped()}
    if folder is not None:
        if not folder.is_dir():
            raise SpecError("is not a folder; accepted: a folder of CRD schemas", field=OPTION, file=str(folder))
        own: dict[tuple[str, str], Mapping[str, Any]] = {}
        for path in sorted(folder.iterdir()):
            if path.suffix in (".json", ".yaml", ".yml") and path.is_file():
                own.update(_read(path))
        if not own:
            raise SpecError(
                "holds no schema; accepted: JSON or YAML files of CustomResourceDefinitions",
                field=OPTION,
                file=str(folder),
            )
        found.update(own)
    return Schemas(found)


@lru_cache(maxsize=1)
def _shipped() -> dict[tuple[str, str], Mapping[str, Any]]:
    found: dict[tuple[str, str], Mapping[str, Any]] = {}
    folder = resources.files("specs").joinpath("data", "schemas")
    if folder.is_dir():
        for path in sorted(folder.iterdir(), key=lambda path: path.name):
            if path.name.endswith(".json"):
                found.update(_kinds(json.loads(path.read_text(encoding="utf-8"))))
    return found


def _read(path: Path) -> dict[tuple[str, str], Mapping[str, Any]]:
    """Schemas of a file."""
    import yaml

    try:
        if path.stat().st_size > MAX_SCHEMA_BYTES:
            raise SpecError(f"is larger than {MAX_SCHEMA_BYTES // 1_000_000} MB", field=OPTION, file=str(path))
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            documents = [json.loads(text)]
        else:
            documents = list(yaml.load_all(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        if isinstance(error, SpecError):
            raise
        problem = " ".join(str(error).split())[:200]
        raise SpecError(f"is no schema that can be read: {problem}", field=OPTION, file=str(path)) from None
    return {key: schema for document in documents for key, schema in _kinds(document).items()}


def _kinds(document: Any) -> dict[tuple[str, str], Mapping[str, Any]]:
    """Schemas of a document by API version and kind; none where it is something else."""
    return {(f"{group}/{version}", kind): _with_metadata(schema) for group, kind, version, schema in _parts(document)}


def _parts(document: Any) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    if not isinstance(document, dict):
        return
    group, kind, versions = document.get("group"), document.get("kind"), document.get("versions")
    if isinstance(group, str) and isinstance(kind, str) and isinstance(versions, dict):
        yield from ((group, kind, name, schema) for name, schema in versions.items() if isinstance(schema, dict))
    elif kind == "CustomResourceDefinition" and isinstance(document.get("spec"), dict):
        spec = document["spec"]
        names = spec.get("names")
        for version in spec.get("versions") or ():
            schema = version.get("schema", {}).get("openAPIV3Schema") if isinstance(version, dict) else None
            if isinstance(schema, dict) and isinstance(names, dict):
                yield str(spec.get("group")), str(names.get("kind")), str(version.get("name")), schema


def _with_metadata(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema whose open `metadata` is that of every object, and whose kind is required."""
    properties = {**schema.get("properties", {}), "metadata": METADATA}
    properties.setdefault("apiVersion", {"type": "string"})
    properties.setdefault("kind", {"type": "string"})
    required = sorted({*schema.get("required", ()), "apiVersion", "kind", "metadata"})
    return {**schema, "type": "object", "properties": properties, "required": required}
