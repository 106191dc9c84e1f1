"""A process to start: its words, its environment and the files it reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from planner.launch.shell import Bare, Shell, expand, quote
from specs.engine_table import FlagKind, Program

Word = str
"""A word of a command: plain text, `Shell` or `Bare`."""


@dataclass(frozen=True)
class Process:
    """A process to start on a node.

    Args:
        words: of the command.
        env: environment variables; values are words.
        files: texts of the files that the command reads, by bare file name.
        tasks_per_node: MPI tasks that run the command on each node; 0 where it is started once, without MPI.
        notes: what whoever starts it has to know.
    """

    words: tuple[Word, ...]
    env: Mapping[str, Word] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    tasks_per_node: int = 0
    notes: tuple[str, ...] = ()

    def shell(self, *, indent: str = "  ") -> str:
        """The command for bash, one flag with its values per line, everything quoted."""
        lines: list[list[str]] = [[]]
        for word in self.words:
            if str(word).startswith("--") or isinstance(word, Bare):
                lines.append([])
            lines[-1].append(quote(word))
        variables = [f"{name}={quote(value)}" for name, value in self.env.items()]
        first = " ".join([*(["env", *variables] if variables else []), *lines[0]])
        return f" \\\n{indent}".join([first, *(" ".join(line) for line in lines[1:])])


class Words:
    """Collects the words of one program from concepts, in the order they are added."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._words: list[Word] = list(program.command)

    def text(self, *words: Word) -> None:
        """Words without a flag."""
        self._words.extend(words)

    def add(self, concept: str, value: str | int | float | None = None) -> None:
        """The flag of a concept, and its value, taken literally, where it has one."""
        self._words.extend(self.program.words(concept, value))

    def add_shell(self, concept: str, value: str) -> None:
        """The flag of a concept, and a value (of an `Address`) whose shell parameters are left to the shell."""
        word = expand(value)
        if isinstance(word, Shell):
            self._words.extend((self.program.flag(concept), word))
        else:
            self.add(concept, value)

    def add_json(self, concept: str, value: Mapping[str, Any], *, shell: bool = False) -> None:
        """The flag of a concept with an object as its value; `shell`: it holds hosts of an `Address`."""
        text = json.dumps(value, separators=(",", ":"))
        name = self.program.flag(concept)
        assert self.program.flags[name].kind is FlagKind.JSON, name
        self._words.extend((name, expand(text) if shell else text))

    def choose(self, concept: str, word: str) -> None:
        """The flag of a concept with the program's word for one of Cleave's."""
        self.add(concept, self.program.value(concept, word))

    @property
    def words(self) -> tuple[Word, ...]:
        """All of them."""
        return tuple(self._words)
