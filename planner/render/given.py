"""The flags of a command of ours, one by one: for launchers that take an engine's flags without its command."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from planner.launch.command import Process
from specs.engine_table import FlagKind, Program

_PLACING = frozenset(
    {
        "port",
        "headless",
        "nodes",
        "node_rank",
        "master_host",
        "master_port",
        "rendezvous",
        "data_parallel_local",
        "data_parallel_address",
        "data_parallel_port",
        "data_parallel_start",
    }
)
"""Concepts that say where the parts of an instance are: orchestrators that spread an instance set them."""


@dataclass(frozen=True)
class Given:
    """A flag with its values.

    Args:
        spelling: as the command has it.
        flag: its main spelling.
        values: the words that follow it.
    """

    spelling: str
    flag: str
    values: tuple[str, ...]


def given_flags(process: Process, program: Program, *, without: frozenset[str] = frozenset()) -> Iterator[Given]:
    """The flags of a command, less those that say where the parts of an instance are.

    Args:
        process: the command.
        program: whose it is.
        without: further concepts that are left out.
    """
    left_out = {program.concepts[concept] for concept in _PLACING | without if concept in program.concepts}
    words = [str(word) for word in process.words[len(program.command) + program.positional :]]
    while words:
        spelling = words.pop(0)
        flag = program.spellings[spelling]
        values: list[str] = []
        if program.flags[flag].kind is not FlagKind.SWITCH:
            values.append(words.pop(0))
            while program.flags[flag].many and words and words[0] not in program.spellings:
                values.append(words.pop(0))
        if flag not in left_out:
            yield Given(spelling, flag, tuple(values))
