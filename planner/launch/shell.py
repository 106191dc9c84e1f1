"""Words of a shell command: quoted unless they say that the shell shall expand them."""

from __future__ import annotations

import re
import shlex


class Shell(str):
    """Text whose shell parameters (`$NAME`, `${NAME}`, `$((...))`) are expanded, all else taken as it stands.

    It is put in double quotes. Text from a scenario must never become part of it.
    """

    __slots__ = ()


class Bare(str):
    """Shell text that stands as it is, unquoted: it may expand to nothing at all."""

    __slots__ = ()


_PARAMETER = re.compile(r"\$(\w+|\{\w+\}|\(\(.*?\)\))")


def expand(text: str) -> str:
    """The text as a `Shell` word where it has shell parameters, else as a plain one."""
    return Shell(text) if _PARAMETER.search(text) else text


def quote(word: str) -> str:
    """One word as bash reads it back."""
    if isinstance(word, Bare):
        return str(word)
    if isinstance(word, Shell):
        text = re.sub(r'([\\"`])', r"\\\1", word)
        return f'"{text}"'
    return shlex.quote(word)
