"""Writes down the flags of an installed engine, for its table: names, kinds and accepted values, no text.

`python -m specs.engine_extract vllm|sglang [--out FILE]` runs where the engine can be imported; a GPU is not needed.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from specs.engine_table import Flag, FlagKind
from specs.errors import SpecError

_VALUES: dict[object, FlagKind] = {int: FlagKind.INT, float: FlagKind.FLOAT, bool: FlagKind.BOOL}
_NAMES = {
    "human_readable_int": FlagKind.INT,
    "human_readable_int_or_auto": FlagKind.INT,
    "str2bool": FlagKind.BOOL,
    "parse_dataclass": FlagKind.JSON,
}
"""Converters that engines define -> what they read. What reads any JSON value, lists too, counts as text."""
_DEPTH = 4
"""Converters inside converters, at most."""


def flags_of(parser: argparse.ArgumentParser) -> dict[str, Flag]:
    """The options of a parser by their first long spelling, in alphabetical order."""
    found = {}
    for action in parser._actions:
        long = [word for word in action.option_strings if word.startswith("--")]
        if not long or isinstance(action, argparse._HelpAction | argparse._VersionAction):
            continue
        name, kind = long[0], _kind(action)
        found[name] = Flag(
            kind=kind,
            choices=_choices(action) if kind is FlagKind.CHOICE else (),
            aliases=tuple(word for word in action.option_strings if word != name),
            many=isinstance(action, argparse._AppendAction)
            or action.nargs in ("+", "*", "?")
            or (isinstance(action.nargs, int) and action.nargs > 1),
        )
    return dict(sorted(found.items()))


def _choices(action: argparse.Action) -> tuple[str | int | float, ...]:
    """Accepted values, in the engine's order where it has one."""
    choices = [each if isinstance(each, int | float) else str(each) for each in action.choices or ()]
    return tuple(sorted(choices, key=str) if isinstance(action.choices, set | frozenset) else choices)


def _kind(action: argparse.Action) -> FlagKind:
    if action.nargs == 0:
        return FlagKind.SWITCH
    if action.choices:
        return FlagKind.CHOICE
    if getattr(action.type, "__closure__", None) and json.loads in _converters(action.type):
        return FlagKind.JSON  # an object or nothing
    kinds = (_VALUES.get(each) or _NAMES.get(getattr(each, "__name__", "")) for each in _converters(action.type))
    return next((kind for kind in kinds if kind is not None), FlagKind.STR)


def _converters(converter: object, depth: int = _DEPTH) -> Iterator[object]:
    """A converter, and those that it is made of: `Optional[int]` is read by a function that holds `int`."""
    if converter is None:
        return
    yield converter
    if depth == 0:
        return
    inner: list[object] = []
    if isinstance(converter, partial):
        inner = [converter.func, *converter.args]
    for cell in getattr(converter, "__closure__", None) or ():
        if callable(cell.cell_contents):
            inner.append(cell.cell_contents)
    for each in inner:
        yield from _converters(each, depth - 1)


def lines(flags: dict[str, Flag]) -> Iterator[str]:
    """The flags as lines of a table."""
    for name, flag in flags.items():
        entries = [f"kind: {flag.kind.value}"]
        for key, words in (("choices", flag.choices), ("aliases", flag.aliases)):
            if words:
                entries.append(f"{key}: {json.dumps(words)}")
        entries += ["many: true"] if flag.many else []
        yield f"{name}: {{{', '.join(entries)}}}"


def _vllm() -> argparse.ArgumentParser:
    platform: Any = importlib.import_module("vllm.platforms").current_platform
    if not platform.device_type:
        # A default is read from the device; without a GPU there is none.
        type(platform).device_type = "cuda"
    make: Callable[[argparse.ArgumentParser], argparse.ArgumentParser] = _first(
        ("vllm.entrypoints.common.cli_args", "vllm.entrypoints.launchers.cli_args", "vllm.entrypoints.openai.cli_args"),
        "make_arg_parser",
    )
    return make(importlib.import_module("vllm.utils.argparse_utils").FlexibleArgumentParser())


def _first(modules: Iterable[str], name: str) -> Any:
    """A function that has moved between versions."""
    for module in modules:
        try:
            return getattr(importlib.import_module(module), name)
        except (ModuleNotFoundError, AttributeError):
            continue
    raise SpecError(f"no module of this version has {name}; looked in {', '.join(modules)}", field="engine")


def _sglang() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    importlib.import_module("sglang.srt.server_args").ServerArgs.add_cli_args(parser)
    return parser


PARSERS: dict[str, Callable[[], argparse.ArgumentParser]] = {"vllm": _vllm, "sglang": _sglang}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the flags of an engine to a file or to standard output."""
    parser = argparse.ArgumentParser(prog="python -m specs.engine_extract", description=__doc__)
    parser.add_argument("engine", choices=sorted(PARSERS))
    parser.add_argument("--out", type=Path, help="file to write; standard output without it")
    asked = parser.parse_args(arguments)
    try:
        version = importlib.metadata.version(asked.engine)
        found = flags_of(PARSERS[asked.engine]())
    except (importlib.metadata.PackageNotFoundError, SpecError) as error:
        print(f"{asked.engine}: cannot be read here: {error}", file=sys.stderr)
        return 2
    text = "\n".join([f"# {asked.engine} {version}", *lines(found)]) + "\n"
    if asked.out is None:
        sys.stdout.write(text)
    else:
        asked.out.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
