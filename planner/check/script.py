"""A launch script as blocks of fixed lines and the few commands between them that differ.

A line that is neither is a violation, unless it changes nothing (`planner.check.asides`): what a script does besides
cannot be counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

from planner.check.asides import without_asides
from planner.check.findings import Findings
from planner.check.place import Place
from planner.check.shell import Command, read_shell

RULE = "script"


@lru_cache(maxsize=64)
def _block(text: str) -> tuple[Command, ...]:
    return read_shell(text, "")


def without_blocks(commands: Sequence[Command], blocks: Sequence[str], file: str, findings: Findings) -> list[Command]:
    """The commands that are left without blocks of lines, and without those that change nothing.

    A block that is not there is a violation.

    Args:
        commands: of the script.
        blocks: texts of lines that must stand together in it.
        file: its name.
        findings: where violations go.
    """
    left = list(commands)
    for block in blocks:
        shapes = [command.shape for command in _block(block)]
        start = next((i for i in _starts(left, shapes)), None)
        if start is None:
            nearest = next(
                (c for c in left if c.words and _block(block)[0].words and c.name == _block(block)[0].name), None
            )
            place = nearest.place if nearest is not None else Place(file, 1)
            first = block.strip().split("\n")[0]
            findings.wrong(RULE, place, f"lacks the lines that start with {first[:80]!r}, or they were changed")
        else:
            del left[start : start + len(shapes)]
    return without_asides(left, findings)


def _starts(commands: Sequence[Command], shapes: Sequence[tuple[object, ...]]) -> Iterator[int]:
    """Where the shapes stand in a row."""
    for start in range(len(commands) - len(shapes) + 1):
        if all(commands[start + i].shape == shape for i, shape in enumerate(shapes)):
            yield start


def unknown(command: Command, findings: Findings) -> None:
    """Note a command that is none of those a launch script has."""
    shown = " ".join(word.raw for word in command.words) or " ".join(f"{name}=..." for name, _ in command.assignments)
    findings.wrong(RULE, command.place, f"has a command that cannot be counted: {' '.join(shown.split())[:80]!r}")
