"""Engine and router commands as the files write them, read against the table of their version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from planner.check.arguments import Arguments, Spoken, read_arguments, read_document
from planner.check.findings import Findings
from planner.check.instance import Process
from planner.check.node import Node, read_yaml
from planner.check.place import Fact, Place
from planner.check.shell import Command
from specs.engine_table import EngineTable, Program, default_version, engine_table
from specs.errors import SpecError
from specs.service import Engine, Mode

RULE = "command"


@dataclass(frozen=True)
class Text:
    """A file that a command reads, wherever it is kept.

    Args:
        text: its content.
        file: where it is kept.
        first_line: of the content in that file.
    """

    text: str
    file: str
    first_line: int = 1


@dataclass
class Commands:
    """Reads commands of one folder.

    Args:
        findings: where violations go.
        versions: engine versions that the files name.
        files: what commands may read, by path as a command writes it.
    """

    findings: Findings
    versions: dict[Engine, Fact[str]] = field(default_factory=dict)
    files: dict[str, Text] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    """Paths of `files` that a command has read."""

    def process(
        self,
        words: Sequence[Spoken],
        env: Mapping[str, Spoken],
        place: Place,
        *,
        version: Fact[str] | None = None,
        tasks: Fact[int] | None = None,
    ) -> Process | None:
        """The engine process that a command starts; None, and a violation, where it starts none."""
        variables, rest = split_env(words)
        found = _engine_of(rest)
        if found is None:
            shown = " ".join(word.value for word in rest[:3])[:80]
            self.findings.wrong(RULE, place, f"starts no engine that is known: {shown!r}")
            return None
        engine, start = found
        table = self.table(engine, version or self.versions.get(engine), afd=_is_afd(rest), place=place)
        if table is None:
            return None
        arguments = read_arguments(rest[start:], table.server, place, self.findings)
        return self.built(table, arguments, {**env, **variables}, place, tasks)

    def built(
        self,
        table: EngineTable,
        arguments: Arguments,
        env: Mapping[str, Spoken],
        place: Place,
        tasks: Fact[int] | None = None,
    ) -> Process:
        """A process with the YAML file that its arguments name."""
        config: dict[str, Fact[object]] = {}
        if "server" in table.documents:
            path = arguments.text("config")
            if path is None:
                self.findings.wrong(RULE, place, "names no file with the engine's settings", "config")
            else:
                document = self.document(path, arguments.place_of("config"))
                if document is not None:
                    config = dict(read_document(document, table.documents["server"], self.findings))
        return Process(table, arguments, env, place, config, tasks)

    def router(
        self, words: Sequence[Spoken], place: Place, version: Fact[str] | None = None
    ) -> tuple[EngineTable, Arguments] | None:
        """The router that a command starts; None where it starts none."""
        _, rest = split_env(words)
        for engine in Engine:
            known = version or self.versions.get(engine)
            table = self.table(engine, known, afd=False, place=place, quiet=True) or engine_table(engine)
            program = table.programs.get("router")
            if program is not None and starts_with(rest, program):
                self.table(engine, known, afd=False, place=place)  # a version that is not known is said once
                repeatable = [program.concepts[c] for c in ("prefill", "decode") if c in program.concepts]
                words_after = rest[len(program.command) :]
                arguments = read_arguments(words_after, program, place, self.findings, repeatable=repeatable)
                return table, arguments
        return None

    def document(self, path: str, place: Place) -> Node | None:
        """A YAML file that a command names; one that is not there is a violation."""
        text = self.files.get(path.removeprefix("./"))
        if text is None:
            self.findings.wrong(RULE, place, f"names the file {path[:100]!r}, which is not there")
            return None
        self.used.add(path.removeprefix("./"))
        try:
            documents = read_yaml(text.text, text.file, text.first_line)
        except SpecError as error:
            self.findings.wrong("file", Place(text.file, error.line), error.message)
            return None
        if len(documents) != 1 or not isinstance(documents[0].value, dict):
            self.findings.wrong("file", Place(text.file, text.first_line), "is not one mapping of settings")
            return None
        return documents[0]

    def table(
        self, engine: Engine, version: Fact[str] | None, *, afd: bool, place: Place, quiet: bool = False
    ) -> EngineTable | None:
        """The flag table of a version; one that is not known is a violation."""
        try:
            if version is None:
                return engine_table(engine, default_version(engine, Mode.AFD if afd else Mode.AGGREGATED))
            return engine_table(engine, version.value)
        except SpecError as error:
            if not quiet:
                self.findings.wrong(RULE, version.place if version else place, error.message, "version")
            return None


def split_env(words: Sequence[Spoken]) -> tuple[dict[str, Spoken], list[Spoken]]:
    """Variables of a leading `env NAME=value ...`, and the command after it, without `exec`."""
    rest = list(words)
    variables: dict[str, Spoken] = {}
    if rest and rest[0].value == "exec":
        rest.pop(0)
    if rest and rest[0].value == "env":
        rest.pop(0)
        while rest and "=" in rest[0].value and not rest[0].value.startswith("-"):
            word = rest.pop(0)
            name, _, value = word.value.partition("=")
            variables[name] = Fact(value, word.place)
    return variables, rest


def spoken_words(command: Command, variables: Mapping[str, str]) -> list[Spoken]:
    """Words of a command after expansion, each with its place."""
    return [Fact(text, word.place) for word in command.words for text in word.fields(variables)]


def starts_with(words: Sequence[Spoken], program: Program) -> bool:
    """Whether a command is of a program."""
    return tuple(word.value for word in words[: len(program.command)]) == program.command


def _engine_of(words: Sequence[Spoken]) -> tuple[Engine, int] | None:
    """The engine that a command starts, and how many words that takes."""
    for engine in Engine:
        table = engine_table(engine)
        launcher = table.programs.get("launcher")
        skipped = len(launcher.command) if launcher is not None and starts_with(words, launcher) else 0
        if starts_with(words[skipped:], table.server):
            return engine, skipped + len(table.server.command)
    return None


def _is_afd(words: Sequence[Spoken]) -> bool:
    """Whether a command starts one side of an AFD unit."""
    return any('"afd"' in word.value for word in words)
