"""The files of a folder, read without following links and within limits."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from planner.check.findings import Findings
from planner.check.place import Place
from specs.errors import SpecError

MAX_FILES = 10_000
MAX_FILE_BYTES = 4_000_000
MAX_FOLDER_BYTES = 64_000_000
MAX_FOLDER_DEPTH = 16


@dataclass(frozen=True)
class SourceFile:
    """A text file.

    Args:
        name: path inside the folder, with `/`.
        text: its content.
    """

    name: str
    text: str

    @property
    def place(self) -> Place:
        """The file as a whole."""
        return Place(self.name)


def read_folder(folder: Path, findings: Findings) -> list[SourceFile]:
    """All text files of a folder, sorted by name; links, devices, binary and huge files are violations.

    Raises:
        SpecError: the folder cannot be read, or holds no file.
    """
    try:
        if not folder.is_dir():
            raise SpecError("is not a folder; accepted: the folder that `cleave render` wrote", file=str(folder))
        entries = list(_entries(folder, 0))
    except (OSError, ValueError) as error:
        if isinstance(error, SpecError):
            raise
        raise SpecError(f"cannot be read: {getattr(error, 'strerror', None) or error}", file=str(folder)) from None
    if not entries:
        raise SpecError("is empty; accepted: the folder that `cleave render` wrote", file=str(folder))
    files: list[SourceFile] = []
    left = MAX_FOLDER_BYTES
    for path in sorted(entries)[: MAX_FILES + 1]:
        name = path.relative_to(folder).as_posix().encode("utf-8", "backslashreplace").decode()
        if len(files) == MAX_FILES:
            findings.wrong("file", Place(name), f"the folder has more than {MAX_FILES:,} files; the rest is not read")
            break
        text = _text(path, name, min(left, MAX_FILE_BYTES), findings)
        if text is not None:
            left -= len(text)
            files.append(SourceFile(name, text))
    return files


def _entries(folder: Path, depth: int) -> Iterator[Path]:
    """Everything in a folder that is no folder itself, down to a depth; links to folders are not entered."""
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False) and depth < MAX_FOLDER_DEPTH:
            yield from _entries(Path(entry.path), depth + 1)
        else:
            yield Path(entry.path)


def _text(path: Path, name: str, most: int, findings: Findings) -> str | None:
    """Text of a file, or None where it is not read."""
    place = Place(name)
    try:
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            findings.wrong("file", place, "is a symbolic link, which is not followed; accepted: plain files")
            return None
        if not stat.S_ISREG(mode):
            findings.wrong("file", place, "is not a plain file, and is not read")
            return None
        with path.open("rb") as stream:
            data = stream.read(most + 1)
    except OSError as error:
        findings.wrong("file", place, f"cannot be read: {error.strerror}")
        return None
    if len(data) > most:
        findings.wrong("file", place, f"is larger than {most // 1_000_000} MB, and is not read")
        return None
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        findings.wrong("file", Place(name, line), "is not UTF-8 text, and is not read")
        return None
