"""Writes rendered files: all of them or none."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from specs.errors import SpecError

LIST = ".cleave-files"
"""In every rendered folder: the files that were written, one per line. What is not listed is the user's."""


def check_folder(out: Path, *, force: bool, option: str = "--out") -> None:
    """Refuse, before the work is done, a folder that could not be written after it.

    Only what an earlier rendering wrote is ever replaced.

    Raises:
        SpecError: it is a file or a link; it is not empty and `force` is not given, or it holds what no rendering
            wrote; or its parent does not exist.
    """
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise SpecError("is no directory; accepted: a new or an empty directory", field=option, file=str(out))
    if not out.resolve().parent.is_dir():
        raise SpecError(f"its folder {str(out.parent)!r} does not exist", field=option, file=str(out))
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not force:
        raise SpecError(
            "is not empty; accepted: a new or an empty directory, or --force to replace what was rendered before",
            field=option,
            file=str(out),
        )
    strangers = _strangers(out)
    if strangers:
        raise SpecError(
            f"holds what no rendering wrote, {strangers[0]!r}{' and more' if len(strangers) > 1 else ''}, which "
            "--force does not replace; accepted: a new or an empty directory, or one that holds rendered files alone",
            field=option,
            file=str(out),
        )


def _strangers(out: Path) -> list[str]:
    """Files of a folder that are not on its list, links included."""
    try:
        listed = {LIST, *(out / LIST).read_text(encoding="utf-8").splitlines()}
    except (OSError, UnicodeDecodeError):
        listed = set()
    return sorted(
        name
        for path in out.rglob("*")
        if (path.is_symlink() or not path.is_dir()) and (name := path.relative_to(out).as_posix()) not in listed
    )


def write_folder(out: Path, files: Mapping[str, str], *, force: bool, option: str = "--out") -> None:
    """Write files to a folder beside it, then put that in its place.

    Args:
        out: the folder.
        files: text by relative path; scripts (`.sh`, `.sbatch`) are made executable.
        force: whether files of an earlier rendering are replaced.
        option: of the command line, for errors.

    Raises:
        SpecError: as `check_folder`, or the files cannot be written.
    """
    check_folder(out, force=force, option=option)
    target = out.resolve()
    listed = "".join(f"{name}\n" for name in sorted(files))
    try:
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            new = temporary / "new"
            new.mkdir()
            for name, text in {**files, LIST: listed}.items():
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
