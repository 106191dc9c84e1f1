"""Runs command lines through the argument parser of an installed engine: a program of its own, without a GPU.

`python -m planner.check.engine_parser ENGINE` reads a JSON list of command lines (lists of words) from standard input,
and writes a JSON list of what the parser says against each of them to standard output; null: it takes the line.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from specs.engine_extract import PARSERS

MAX_REFUSAL = 300
"""Characters of a parser's words that are passed on."""


class _RefusedError(Exception):
    """What a parser says against a command line."""


def refusals(parser: argparse.ArgumentParser, lines: Sequence[Sequence[str]]) -> list[str | None]:
    """What a parser says against each of some command lines; None where it takes it."""

    def refuse(message: str) -> NoReturn:
        raise _RefusedError(message)

    def leave(status: int = 0, message: str | None = None) -> NoReturn:
        raise _RefusedError(message or f"ends with status {status} instead of starting a server")

    parser.error = refuse  # type: ignore[method-assign]
    parser.exit = leave  # type: ignore[method-assign]
    by_flag = any("--model" in action.option_strings for action in parser._actions)
    found: list[str | None] = []
    for line in lines:
        # A model without a flag is the same as one with it, which parsers of all versions take.
        words = ["--model", *line] if by_flag and line and not line[0].startswith("-") else list(line)
        try:
            parser.parse_args(words)
            found.append(None)
        except Exception as error:  # a converter of the engine may raise anything
            said = str(error) if isinstance(error, _RefusedError) else f"{type(error).__name__}: {error}"
            found.append(" ".join(said.split())[:MAX_REFUSAL])
    return found


def main() -> None:
    """Answer on standard output, on which engines may print as well: theirs goes to standard error."""
    answer = os.dup(1)
    os.dup2(2, 1)
    parser = PARSERS[sys.argv[1]]()
    found = refusals(parser, json.load(sys.stdin))
    with os.fdopen(answer, "w", encoding="utf-8") as stream:
        json.dump(found, stream)


if __name__ == "__main__":
    main()
