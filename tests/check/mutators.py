"""Faults put into rendered files: generic changes of every leaf, whatever the file means.

YAML and JSON are changed as data and written again; scripts, and texts inside documents, word by word.
"""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import yaml

_WORD = re.compile(r"\S+")
_IDENTIFIER = re.compile(r"\"([A-Za-z_]\w*)\"")
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


@dataclass(frozen=True, eq=False)
class Mutant:
    """One fault.

    Args:
        file: that was changed.
        path: of the leaf: fields with dots, or the line of a script.
        kind: of the change.
        before: the leaf.
        after: what it became.
        write: gives the text of the whole file.
        context: the line of a script that was changed, as it was.
        column: where in that line.
    """

    file: str
    path: str
    kind: str
    before: str
    after: str
    write: Callable[[], str]
    context: str = ""
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file} {self.path} {self.kind}: {self.before[:60]!r} -> {self.after[:60]!r}"


def mutants(file: str, text: str) -> Iterator[Mutant]:
    """All mutants of a file."""
    if file.endswith((".yaml", ".yml")):
        yield from _document(file, list(yaml.load_all(text, Loader=_LOADER)), _yaml_text)
    elif file.endswith(".json"):
        yield from _document(file, [json.loads(text)], _json_text)
    else:
        yield from _words(file, text)


def sampled(file: str, text: str, share: float, seed: str) -> Iterator[Mutant]:
    """A share of the mutants of a file, the same for the same seed."""
    chance = random.Random(f"{seed}/{file}")
    for mutant in mutants(file, text):
        if chance.random() < share:
            yield mutant


def _yaml_text(documents: list[Any]) -> str:
    return str(yaml.dump_all(documents, Dumper=_DUMPER, sort_keys=False, width=10_000))


def _json_text(documents: list[Any]) -> str:
    return json.dumps(documents[0], indent=2) + "\n"


# -- documents --------------------------------------------------------------------------------------------------------

_Path = tuple[str | int, ...]
_Write = Callable[[list[Any]], str]


def _document(file: str, documents: list[Any], write: _Write) -> Iterator[Mutant]:
    leaves = [(path, value) for path, value in _leaves(documents, ()) if path]
    by_kind: dict[type, list[Any]] = {}
    for _, value in leaves:
        by_kind.setdefault(type(value), []).append(value)

    def mutant(path: _Path, kind: str, before: Any, after: Any, change: Callable[[Any, Any], None]) -> Mutant:
        def text() -> str:
            changed = copy.deepcopy(documents)
            change(_at(changed, path[:-1]), path[-1])
            return write(changed)

        return Mutant(file, ".".join(map(str, path)), kind, str(before), str(after), text)

    def setting(after: Any) -> Callable[[Any, Any], None]:
        return lambda inside, key: inside.__setitem__(key, after)

    for path, value in leaves:
        for kind, after in _values(value, by_kind[type(value)], f"{file}{path}"):
            yield mutant(path, kind, value, after, setting(after))
        yield mutant(path, "delete", value, "", lambda inside, key: inside.__delitem__(key))
        if isinstance(path[-1], str):
            yield mutant(path, "rename", path[-1], f"{path[-1]}x", _rename)
        if isinstance(value, str) and "\n" in value:
            for inner in _inside(value):
                name = ".".join(map(str, path))

                def change(inside: Any, key: Any, inner: Mutant = inner) -> None:
                    inside[key] = inner.write()

                outer = mutant(path, inner.kind, inner.before, inner.after, change)
                yield replace(outer, path=f"{name}:{inner.path}", context=inner.context, column=inner.column)


def _inside(text: str) -> Iterator[Mutant]:
    """Mutants of a text inside a document: a script, or a document of its own."""
    if re.match(r"[\w.]+:( |\n)", text.lstrip()) and "exec " not in text:
        yield from _document("inner.yaml", list(yaml.load_all(text, Loader=_LOADER)), _yaml_text)
    else:
        yield from _words("inner.sh", text)


def _leaves(value: Any, path: _Path) -> Iterator[tuple[_Path, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, (*path, key))
    elif isinstance(value, list) and value:
        for index, inner in enumerate(value):
            yield from _leaves(inner, (*path, index))
    else:
        yield path, value


def _at(documents: Any, path: _Path) -> Any:
    for key in path:
        documents = documents[key]
    return documents


def _rename(inside: dict[str, Any], key: str) -> None:
    items = [(f"{name}x" if name == key else name, value) for name, value in inside.items()]
    inside.clear()
    inside.update(items)


def _values(value: Any, alike: list[Any], seed: str) -> Iterator[tuple[str, Any]]:
    """Other values in place of a leaf."""
    if isinstance(value, bool):
        yield "negate", not value
        yield "type", str(value).lower() + "!"
    elif isinstance(value, int | float):
        yield "more", value + 1
        yield "less", value - 1
        yield "type", f"{value}"
    elif isinstance(value, str):
        if "\n" not in value:
            yield from _stepped(value)
        yield "other", f"{value}x"
        yield "type", 7
    else:
        yield "type", 7
    other = random.Random(seed).choice(alike)
    if other != value:
        yield "swap", other


def _stepped(text: str) -> Iterator[tuple[str, str]]:
    """The text with one of its numbers one more and one less."""
    for number in re.finditer(r"\d+", text):
        for kind, step in (("more", 1), ("less", -1)):
            yield kind, text[: number.start()] + str(int(number.group()) + step) + text[number.end() :]


# -- scripts ----------------------------------------------------------------------------------------------------------


def _words(file: str, text: str) -> Iterator[Mutant]:
    lines = text.split("\n")

    def mutant(number: int, kind: str, before: str, after: str, changed: str, column: int = 0) -> Mutant:
        def text() -> str:
            return "\n".join([*lines[:number], changed, *lines[number + 1 :]])

        return Mutant(file, str(number + 1), kind, before, after, text, lines[number], column)

    for number, line in enumerate(lines):
        if not line.strip():
            continue
        directive = line.startswith(("#SBATCH", "#!"))
        if line.lstrip().startswith("#") and not directive:
            yield mutant(number, "comment", line, f"{line} x", f"{line} x")
            continue
        yield mutant(number, "delete line", line, "", "")
        words = list(_WORD.finditer(line))
        for index, word in enumerate(words):
            before, after = line[: word.start()], line[word.end() :]
            for kind, changed in _changed(word.group()):
                yield mutant(number, kind, word.group(), changed, before + changed + after, word.start())
            if index + 1 < len(words) and not directive and words[index + 1].group() != word.group():
                other = words[index + 1]
                between = line[word.end() : other.start()]
                swapped = before + other.group() + between + word.group() + line[other.end() :]
                yield mutant(number, "swap", f"{word.group()} {other.group()}", "", swapped, word.start())


def _changed(word: str) -> Iterator[tuple[str, str]]:
    """Other words in place of one."""
    yield from _stepped(word)
    for name in _IDENTIFIER.finditer(word):
        yield "rename", word[: name.end(1)] + "x" + word[name.end(1) :]
    if word != "\\":
        yield "other", f"{word}x"
    yield "delete", ""
