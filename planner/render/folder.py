"""Writes rendered files: all of them or none."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from specs.errors import SpecError


def check_folder(out: Path, *, force: bool, option: str = "--out") -> None:
    """Refuse, before the work is done, a folder that could not be written after it.

    Raises:
        SpecError: it is a file or a link, it is not empty and `force` is not given, or its parent does not exist.
    """
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise SpecError("is no directory; accepted: a new or an empty directory", field=option, file=str(out))
    if not out.resolve().parent.is_dir():
        raise SpecError(f"its folder {str(out.parent)!r} does not exist", field=option, file=str(out))
    if out.is_dir() and not force and any(out.iterdir()):
        raise SpecError(
            "is not empty; accepted: a new or an empty directory, or --force to replace it", field=option, file=str(out)
        )


def write_folder(out: Path, files: Mapping[str, str], *, force: bool, option: str = "--out") -> None:
    """Write files to a folder beside it, then put that in its place.

    With `force` everything that the folder held is replaced.

    Args:
        out: the folder.
        files: text by relative path; scripts (`.sh`, `.sbatch`) are made executable.
        force: whether a folder that is not empty is replaced.
        option: of the command line, for errors.

    Raises:
        SpecError: as `check_folder`, or the files cannot be written.
    """
    check_folder(out, force=force, option=option)
    target = out.resolve()
    try:
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            new = temporary / "new"
            new.mkdir()
            for name, text in files.items():
                path = new / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(text.encode())
                if path.suffix in (".sh", ".sbatch"):
                    path.chmod(0o755)
            if target.exists():
                target.rename(temporary / "old")
                try:
                    new.rename(target)
                except OSError:
                    (temporary / "old").rename(target)
                    raise
            else:
                new.rename(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise SpecError(f"cannot be written: {error.strerror}", field=option, file=str(out)) from error
