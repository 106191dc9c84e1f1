"""The files of a folder while they are read: which are there, and which nothing has read yet."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from planner.check.findings import Findings
from planner.check.node import Node, read_json, read_yaml
from planner.check.place import Place
from planner.check.schemas import Schemas
from planner.check.shell import Command, read_shell
from planner.check.source import SourceFile
from specs.errors import SpecError

RULE = "file"
SHEBANGS = ("#!/usr/bin/env bash", "#!/bin/bash")


@dataclass
class Folder:
    """Files by name.

    Args:
        files: all of them.
        findings: where violations go.
        schemas: of Kubernetes kinds.
        read: names of those that a reader has read.
    """

    files: dict[str, SourceFile]
    findings: Findings
    schemas: Schemas
    read: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, files: Iterable[SourceFile], findings: Findings, schemas: Schemas) -> Folder:
        """A folder of files."""
        return cls({file.name: file for file in files}, findings, schemas)

    def names(self, prefix: str = "", suffix: str = "") -> list[str]:
        """Names that start and end so, sorted."""
        return sorted(name for name in self.files if name.startswith(prefix) and name.endswith(suffix))

    def commands(self, name: str) -> tuple[Command, ...]:
        """Commands of a script; none, and a violation, where it cannot be read."""
        self.read.add(name)
        text = self.files[name].text
        first = text.partition("\n")[0]
        if not name.endswith(".env") and first not in SHEBANGS:
            self.findings.wrong("script", Place(name, 1), f"must start with {SHEBANGS[0]}, got {first[:60]!r}")
        try:
            return read_shell(text, name)
        except SpecError as error:
            self.findings.wrong(RULE, Place(name, error.line), error.message)
            return ()

    def documents(self, name: str) -> tuple[Node, ...]:
        """Documents of a YAML file; none, and a violation, where it cannot be read."""
        self.read.add(name)
        try:
            return read_yaml(self.files[name].text, name)
        except SpecError as error:
            self.findings.wrong(RULE, Place(name, error.line), error.message)
            return ()

    def json(self, name: str) -> Node | None:
        """Value of a JSON file; None, and a violation, where it cannot be read."""
        self.read.add(name)
        try:
            return read_json(self.files[name].text, name)
        except SpecError as error:
            self.findings.wrong(RULE, Place(name, error.line), error.message)
            return None

    def peek(self, name: str) -> tuple[Node, ...]:
        """Documents of a YAML file, without counting it as read; none where it cannot be read."""
        try:
            return read_yaml(self.files[name].text, name)
        except SpecError:
            return ()

    def refuse_unreadable(self, name: str) -> bool:
        """Whether a YAML or JSON file cannot be read, which is noted."""
        text = self.files[name].text
        try:
            if name.endswith((".yaml", ".yml")):
                read_yaml(text, name)
            elif name.endswith(".json"):
                read_json(text, name)
        except SpecError as error:
            self.findings.wrong(RULE, Place(name, error.line), error.message)
            return True
        return False
