"""YAML and JSON documents as text: data in, never a template."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import yaml


class _Dumper(yaml.SafeDumper):
    """A safe dumper that writes repeated values in full and long texts as blocks."""

    def ignore_aliases(self, data: Any) -> bool:
        """Never write anchors: readers of manifests do not expect them."""
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        """Indent the items of a list under its key."""
        super().increase_indent(flow, False)


def _text(dumper: _Dumper, value: str) -> yaml.ScalarNode:
    """A text of several lines is a block, in which YAML keeps every character."""
    plain = all(character.isprintable() or character == "\n" for character in value)
    style = "|" if "\n" in value and plain and not any(line.endswith(" ") for line in value.split("\n")) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)


def yaml_text(documents: Iterable[Mapping[str, Any]]) -> str:
    """YAML text of documents, keys in the order given."""
    return yaml.dump_all(
        [dict(document) for document in documents],
        Dumper=_Dumper,
        sort_keys=False,
        default_flow_style=False,
        allow_unicode=True,
        width=10_000,
        explicit_start=False,
    )


def json_text(document: Mapping[str, Any]) -> str:
    """JSON text of a document, keys in the order given."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
