"""The words of a command read against the flag table of its program."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from planner.check.findings import Findings
from planner.check.place import Fact, Place
from specs.engine_table import Flag, FlagKind, Program

RULE = "flags"

Spoken = Fact[str]
"""A word as it reads after expansion; what cannot be expanded stays as `$NAME`."""


@dataclass(frozen=True)
class Argument:
    """A flag as it was given.

    Args:
        flag: its main spelling.
        values: words after it.
        place: of the flag.
        negated: whether it is the `--no-...` form.
        groups: values of each time that it was given; more than one of a flag that may repeat.
    """

    flag: str
    values: tuple[Spoken, ...]
    place: Place
    negated: bool = False
    groups: tuple[tuple[Spoken, ...], ...] = ()


@dataclass(frozen=True)
class Arguments:
    """The flags of one command.

    Args:
        program: whose.
        given: flags by main spelling.
        positional: words without a flag.
        place: of the command.
        words: all of them, as they were given.
    """

    program: Program
    given: Mapping[str, Argument]
    positional: tuple[Spoken, ...]
    place: Place
    words: tuple[Spoken, ...] = ()

    def argument(self, concept: str) -> Argument | None:
        """The flag of a concept, where it was given."""
        flag = self.program.concepts.get(concept)
        return self.given.get(flag) if flag is not None else None

    def has(self, concept: str) -> bool:
        """Whether a switch was given and not negated."""
        argument = self.argument(concept)
        return argument is not None and not argument.negated

    def place_of(self, concept: str) -> Place:
        """Where a concept was given, or else the command."""
        argument = self.argument(concept)
        return argument.place if argument is not None else self.place

    def text(self, concept: str) -> str | None:
        """Value of a concept, or None."""
        argument = self.argument(concept)
        return argument.values[0].value if argument is not None and argument.values else None

    def whole(self, concept: str) -> int | None:
        """Value of a concept as a whole number, or None."""
        text = self.text(concept)
        try:
            return int(text) if text is not None and len(text) < 19 else None
        except ValueError:
            return None

    def number(self, concept: str) -> float | None:
        """Value of a concept as a number, or None."""
        text = self.text(concept)
        try:
            return float(text) if text is not None else None
        except ValueError:
            return None

    def document(self, concept: str) -> dict[str, Any]:
        """Value of a concept as a JSON object; empty where there is none."""
        text = self.text(concept)
        try:
            found = json.loads(text) if text is not None else {}
        except (ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}


def read_arguments(
    words: Sequence[Spoken],
    program: Program,
    place: Place,
    findings: Findings,
    *,
    repeatable: Collection[str] = (),
) -> Arguments:
    """Sort the words after a program's command into flags and values; what its table does not accept is a violation.

    Args:
        words: those after the command's own.
        program: whose flags are accepted.
        place: of the command.
        findings: where violations go.
        repeatable: flags that may be given several times.
    """
    given: dict[str, Argument] = {}
    positional: list[Spoken] = []
    at = 0
    while at < len(words):
        word = words[at]
        at += 1
        if not is_flag(word.value):
            positional.append(word)
            continue
        spelling, equals, value = word.value.partition("=")
        name = program.spellings.get(spelling)
        if name is None:
            near = get_close_matches(spelling, program.spellings, n=1)
            hint = f"; nearest is {near[0]}" if near else ""
            findings.wrong(RULE, word.place, f"is no flag of {_title(program)}{hint}", spelling[:100])
            while at < len(words) and not equals and not is_flag(words[at].value):
                at += 1  # its values belong to nothing
            continue
        flag = program.flags[name]
        negated = spelling != name and spelling.startswith(("--no-", "--disable-"))
        values: list[Spoken] = [Fact(value, word.place)] if equals else []
        while not equals and at < len(words) and not is_flag(words[at].value) and _takes(flag, negated, len(values)):
            values.append(words[at])
            at += 1
        earlier = given.get(name)
        if earlier is not None and name in repeatable:
            groups = (*earlier.groups, tuple(values))
            given[name] = Argument(name, (*earlier.values, *values), earlier.place, negated, groups)
            _check_values(Argument(name, tuple(values), word.place, negated), flag, spelling, findings)
            continue
        if name in given:
            line = given[name].place.line
            findings.wrong(RULE, word.place, f"is given twice (first on line {line})", spelling)
            continue
        given[name] = Argument(name, tuple(values), word.place, negated, (tuple(values),))
        _check_values(given[name], flag, spelling, findings)
    if len(positional) != program.positional:
        where = positional[min(program.positional, len(positional) - 1)].place if positional else place
        expected = f"{program.positional} word{'s' * (program.positional != 1)} without a flag"
        shown = ", ".join(repr(word.value[:60]) for word in positional[:4]) or "none"
        findings.wrong(RULE, where, f"{_title(program)} takes {expected}, got {shown}")
    return Arguments(program, given, tuple(positional), place, tuple(words))


def _title(program: Program) -> str:
    return " ".join(program.command)


def is_flag(word: str) -> bool:
    """Whether a word is a flag: a negative number is none."""
    return len(word) > 1 and word.startswith("-") and not (word[1].isdecimal() or word[1] == ".")


def _takes(flag: Flag, negated: bool, count: int) -> bool:
    return not negated and flag.kind is not FlagKind.SWITCH and (flag.many or count == 0)


def _check_values(argument: Argument, flag: Flag, spelling: str, findings: Findings) -> None:
    if argument.negated or (flag.kind is FlagKind.SWITCH and not argument.values):
        return
    if not argument.values:
        findings.wrong(RULE, argument.place, f"takes {flag.refusal(None) or 'a value'}, got nothing", spelling)
    for value in argument.values:
        if "$" in value.value and flag.kind is not FlagKind.SWITCH:
            continue  # only the machine that runs it knows the value
        refusal = flag.refusal(value.value)
        if refusal is not None:
            findings.wrong(RULE, value.place, f"takes {refusal}, got {value.value[:80]!r}", spelling)


def read_document(document: Any, keys: Mapping[str, Flag], findings: Findings) -> dict[str, Fact[Any]]:
    """Values of a YAML file that a program reads, by dotted key; what its table does not accept is a violation.

    Args:
        document: the node of the whole file.
        keys: accepted keys, dotted where nested.
        findings: where violations go.
    """
    found: dict[str, Fact[Any]] = {}

    def read(node: Any, prefix: str) -> None:
        for name, inner in node.fields.items():
            key = f"{prefix}{name}"
            nested = any(known.startswith(f"{key}.") for known in keys)
            if key in keys:
                value = inner.plain
                refusal = keys[key].refusal(value)
                if isinstance(value, str) and keys[key].kind in (FlagKind.INT, FlagKind.FLOAT, FlagKind.BOOL):
                    refusal = f"{keys[key].kind.value} without quotes"
                if refusal is not None:
                    findings.wrong(RULE, inner.place, f"takes {refusal}, got {str(value)[:80]!r}", key)
                found[key] = Fact(value, inner.place)
            if nested and isinstance(inner.value, dict):
                read(inner, f"{key}.")
            elif key not in keys:
                near = get_close_matches(key, keys, n=1)
                hint = f"; nearest is {near[0]}" if near else ""
                findings.wrong(RULE, inner.place, f"is no key of this file{hint}", key[:100])

    read(document, "")
    return found


def spoken(words: Sequence[str], place: Place) -> list[Spoken]:
    """Words that stand on one line."""
    return [Fact(word, place) for word in words]
