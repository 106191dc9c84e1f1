"""Published measurements: what is read, and what is refused."""

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from planner.kernels.build import source as module
from planner.kernels.build.source import Kind, Source, SourceError, version_key

COLUMNS: dict[str, Kind] = {"gemm_dtype": "text", "m": "count", "step": "index", "latency": "ms"}

ROWS: dict[str, list[Any]] = {
    "gemm_dtype": ["fp8", "bfloat16", "fp8"],
    "m": [1, 2, 4096],
    "step": [0, 0, 7],
    "latency": [0.0021, 0.0034, 1.25],
    "unread": [None, None, None],
}


def write(folder: Path, rows: Mapping[str, list[Any]], version: str = "0.24.0", framework: str = "vllm") -> Path:
    """One file of measurements below `folder`, which becomes a `systems` directory."""
    arrow = pytest.importorskip("pyarrow", reason="reading measurements needs the extra `measured`")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = folder / "data" / "h200_sxm" / "gemm" / framework / version / "gemm_perf.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(arrow.table(dict(rows)), path)
    return path


def read(folder: Path, **options: Any) -> module.Rows:
    rows = Source(folder).rows("h200_sxm", "gemm", "vllm", "gemm", COLUMNS, **options)
    assert rows is not None
    return rows


def refusal(folder: Path, changes: Mapping[str, list[Any] | None], **options: Any) -> str:
    """The message about a file whose columns were changed, or dropped where None."""
    changed = {name: changes.get(name, values) for name, values in ROWS.items()}
    write(folder, {name: values for name, values in changed.items() if values is not None})
    with pytest.raises(SourceError) as caught:
        read(folder, **options)
    return str(caught.value)


def test_rows_come_in_the_order_of_the_file(tmp_path: Path) -> None:
    write(tmp_path, ROWS)
    rows = read(tmp_path)
    assert rows.path == "data/h200_sxm/gemm/vllm/0.24.0/gemm_perf.parquet"
    assert (rows.framework, rows.version, len(rows)) == ("vllm", "0.24.0", 3)
    assert {name: rows[name].tolist() for name in COLUMNS} == {name: ROWS[name] for name in COLUMNS}
    assert rows.select(rows["gemm_dtype"] == "fp8")["m"].tolist() == [1, 4096]


def test_microseconds_come_in_milliseconds(tmp_path: Path) -> None:
    write(tmp_path, {**ROWS, "notify_us": [0.0, 12.0, 3.0], "sent_us": [20.0, 30.0, 4000.0]})
    rows = Source(tmp_path).rows("h200_sxm", "gemm", "vllm", "gemm", {"notify_us": "us_or_0", "sent_us": "us"})
    assert rows is not None
    assert rows["notify_us"].tolist() == pytest.approx([0, 0.012, 0.003])
    assert rows["sent_us"].tolist() == pytest.approx([0.02, 0.03, 4.0])


def test_the_newest_version_is_read_unless_another_is_asked_for(tmp_path: Path) -> None:
    for version in ("0.9.2", "0.10.0rc1", "0.10.0", "0.10.0.post1", "0.10.0rc11", "0.11.dev3"):
        write(tmp_path, ROWS, version)
    versions = Source(tmp_path).versions("h200_sxm", "gemm", "vllm", "gemm")
    assert versions == ["0.11.dev3", "0.10.0.post1", "0.10.0", "0.10.0rc11", "0.10.0rc1", "0.9.2"]
    assert read(tmp_path).version == "0.11.dev3"
    assert read(tmp_path, version="0.9.2").version == "0.9.2"
    with pytest.raises(SourceError, match=r"'0\.12\.0'; measured: 0\.11\.dev3"):
        read(tmp_path, version="0.12.0")


def test_versions_are_ordered_as_the_packaging_standard_says() -> None:
    ordered = ["0.5.6", "0.5.6.post2", "0.5.10", "1.0a1", "1.0rc2.dev1", "1.0rc2", "1.0rc10", "1.0.0", "1.0.1.dev2"]
    assert sorted(set(ordered), key=version_key) == ordered
    version = pytest.importorskip("packaging.version").Version
    assert sorted(ordered, key=version) == ordered


def test_what_was_not_measured_is_none(tmp_path: Path) -> None:
    write(tmp_path, ROWS)
    assert Source(tmp_path).rows("h200_sxm", "gemm", "sglang", "gemm", COLUMNS) is None
    assert Source(tmp_path).rows("h200_sxm", "moe", "vllm", "moe", COLUMNS) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latency": None}, "column 'latency' is missing"),
        ({"latency": [0.002, float("nan"), 1.0]}, "column 'latency', row 2: nan is not a finite number"),
        ({"latency": [0.002, None, 1.0]}, "column 'latency', row 2: None where a value must be"),
        ({"latency": [0.002, 0.1, 0.0]}, "column 'latency', row 3: 0.0 is not a positive time"),
        ({"latency": [-0.002, 0.1, 0.3]}, "column 'latency', row 1: -0.002 is not a positive time"),
        ({"latency": [2.1e-6, 3.4e-6, 1.25e-3]}, "row 1: 2.1e-06 is too short for milliseconds"),
        ({"latency": [8.1, 3.4, 1250.0]}, "row 2: 3.4 is the fastest row, too long for milliseconds"),
        ({"latency": [0.1, 2.0e5, 1.0]}, "row 2: 200000.0 is too long for milliseconds"),
        ({"latency": ["a", "b", "c"]}, "column 'latency' holds string, not numbers"),
        ({"m": [1, 0, 2]}, "column 'm', row 2: 0 is below 1"),
        ({"m": [1.0, 2.5, 3.0]}, "column 'm', row 2: 2.5 is not an integer"),
        ({"step": [0, -1, 2]}, "column 'step', row 2: -1 is below 0"),
        ({"gemm_dtype": [1, 2, 3]}, "column 'gemm_dtype' holds int64, not text"),
        ({name: [] for name in ROWS}, "no rows"),
    ],
)
def test_what_cannot_be_a_measurement_is_refused(
    tmp_path: Path, changes: dict[str, list[Any] | None], message: str
) -> None:
    text = refusal(tmp_path, changes)
    assert message in text
    assert text.startswith("data/h200_sxm/gemm/vllm/0.24.0/gemm_perf.parquet: ")


def test_a_family_may_know_its_unit_better(tmp_path: Path) -> None:
    microseconds = {"latency": [2.1, 3.4, 1250.0]}
    assert "row 1: 2.1 is the fastest row" in refusal(tmp_path, microseconds, fastest_ms=(5e-4, 0.1))


def test_a_file_that_was_not_written_to_its_end_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, ROWS)
    content = path.read_bytes()
    for kept in (0, 40, len(content) - 9):
        path.write_bytes(content[:kept])
        with pytest.raises(SourceError, match="not a whole Parquet file"):
            read(tmp_path)


def test_unknown_systems_frameworks_and_versions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no directory 'data'"):
        Source(tmp_path)
    write(tmp_path, ROWS)
    with pytest.raises(SourceError, match="data/h900: no such system"):
        Source(tmp_path).rows("h900", "gemm", "vllm", "gemm", COLUMNS)
    with pytest.raises(SourceError, match="unknown framework; known: vllm"):
        Source(tmp_path).rows("h200_sxm", "gemm", "llama.cpp", "gemm", COLUMNS)
    write(tmp_path, ROWS, "newest")
    with pytest.raises(SourceError, match="'newest' is not a version of vllm"):
        read(tmp_path)


def test_an_absent_package_is_named_with_the_way_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SourceError, match=r"aiconfigurator-core 0\.12\.0 is not installed: pip install 'cleave\["):
        Source.installed()


def test_the_installed_package_is_found_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "aiconfigurator_core"
    (package / "systems" / "data").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.12.0")
    assert Source.installed().directory == package / "systems"
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.13.0")
    with pytest.raises(SourceError, match=r"0\.13\.0 is installed; its files are read at 0\.12\.0"):
        Source.installed()
