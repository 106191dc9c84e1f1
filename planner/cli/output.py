"""Standard output and files, as the commands write them."""

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from specs.errors import SpecError

if TYPE_CHECKING:
    from rich.console import RenderableType

PIPE_WIDTH = 100
"""Columns where standard output is no terminal."""


def write(text: str) -> None:
    """Write text to standard output; a reader that has gone is no error."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        discard_stdout()
    except OSError:
        discard_stdout()  # or the interpreter would try again when it ends
        raise


def write_json(text: str) -> None:
    """Write JSON to standard output, in UTF-8 whatever the locale says."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(encoding="utf-8")
    write(text.rstrip("\n") + "\n")


def show(view: "RenderableType") -> None:
    """Draw a view on standard output: in colour on a terminal (unless `NO_COLOR` is set), else as plain text."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else PIPE_WIDTH
    console = Console(file=sys.stdout, width=width, highlight=False, markup=False, emoji=False)
    with console.capture() as captured:
        console.print(view)
    write(captured.get())


def warn(notes: Iterable[str]) -> None:
    """Write warnings to standard error, one line each."""
    for note in notes:
        sys.stderr.write(f"cleave: warning: {note}\n")


def discard_stdout() -> None:
    """Send what is still to be written nowhere."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):  # a standard output without a file descriptor, or a closed one
        return


def check_target(path: Path, option: str) -> None:
    """Refuse, before the work is done, a file that could not be written after it.

    Raises:
        SpecError: its folder does not exist, or the path is a folder itself.

    """
    if path.is_dir():
        raise SpecError("is a directory; accepted: the path of a file", field=option, file=str(path))
    if not path.parent.is_dir():
        raise SpecError(f"its folder {str(path.parent)!r} does not exist", field=option, file=str(path))


def write_file(path: Path, content: bytes, option: str) -> None:
    """Write a file whole or not at all: to a temporary file beside it, which is then renamed.

    Raises:
        SpecError: it cannot be written.

    """
    try:
        if path.exists() and not path.is_file():  # a device or a pipe, which must not be replaced by a file
            path.write_bytes(content)
            return
        target = path.resolve()
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            temporary.write_bytes(content)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise SpecError(f"cannot be written: {error.strerror}", field=option, file=str(path)) from error
