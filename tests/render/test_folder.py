from pathlib import Path

import pytest

from planner.render.folder import LIST, check_folder, write_folder
from specs.errors import SpecError

FILES = {"nodes/a.sh": "#!/bin/bash\n", "inventory.json": "{}\n"}


def content(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_is_written_with_its_list(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_folder(out, FILES, force=False)
    assert content(out) == {**FILES, LIST: "inventory.json\nnodes/a.sh\n"}
    assert (out / "nodes" / "a.sh").stat().st_mode & 0o111
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_force_replaces_what_was_rendered(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_folder(out, FILES, force=False)
    with pytest.raises(SpecError, match="is not empty"):
        check_folder(out, force=False)
    write_folder(out, {"b.yaml": "b: 1\n"}, force=True)
    assert content(out) == {"b.yaml": "b: 1\n", LIST: "b.yaml\n"}


@pytest.mark.parametrize("stranger", ["thesis.txt", ".git/HEAD", "nodes/mine.sh"])
def test_force_never_replaces_what_is_the_users(tmp_path: Path, stranger: str) -> None:
    out = tmp_path / "out"
    write_folder(out, FILES, force=False)
    (out / stranger).parent.mkdir(exist_ok=True)
    (out / stranger).write_text("mine")
    before = content(out)
    with pytest.raises(SpecError, match="holds what no rendering wrote"):
        write_folder(out, FILES, force=True)
    assert content(out) == before


def test_a_folder_that_was_never_rendered_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "thesis.txt").write_text("mine")
    with pytest.raises(SpecError, match="holds what no rendering wrote"):
        write_folder(tmp_path, FILES, force=True)
    assert content(tmp_path) == {"src/thesis.txt": "mine"}


def test_a_link_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "real")
    with pytest.raises(SpecError, match="is no directory"):
        write_folder(tmp_path / "out", FILES, force=True)


def test_files_that_cannot_be_written_leave_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_folder(out, FILES, force=False)
    before = content(out)
    with pytest.raises(SpecError, match="cannot be written"):
        write_folder(out, {"a": "1", "a/b": "2"}, force=True)
    assert content(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
