"""`cleave validate`: options, output, files and exit codes; scores themselves are tested beside `planner.accuracy`."""

import csv
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

import planner.accuracy
from planner.accuracy.halves import Half, half_of
from planner.accuracy.points import Point, read
from planner.accuracy.score import Estimate
from planner.cli import main, validate
from tests.accuracy.points_file import AGGREGATED, write

Capture = pytest.CaptureFixture[str]


def run(capsys: Capture, *arguments: object) -> tuple[int, str, str]:
    code = main(["validate", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture(autouse=True)
def cost_model(monkeypatch: pytest.MonkeyPatch) -> list[Point]:
    """Put a cost model in place that is 20% high on TPOT and knows no H100."""
    asked: list[Point] = []

    def estimate(point: Point) -> Estimate:
        asked.append(point)
        if point.gpu.startswith("h100"):
            raise ValueError("weights do not fit")
        return Estimate(ttft_ms=90.0, tpot_ms=12.0, throughput_tok_s_per_gpu=380.0)

    fake = ModuleType("planner.accuracy.estimate")
    fake.CostModel = lambda: estimate  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "planner.accuracy.estimate", fake)
    monkeypatch.setattr(planner.accuracy, "estimate", fake, raising=False)
    return asked


@pytest.fixture
def points(tmp_path: Path) -> Path:
    rows = [{**AGGREGATED, "tp": tp, "n_gpus": tp} for tp in ("1", "2", "4", "8")]
    return write(tmp_path / "points.csv", *rows, {**AGGREGATED, "gpu": "h100_sxm"}, {**AGGREGATED, "model": "no/one"})


def test_json_alone_on_standard_output(capsys: Capture, points: Path) -> None:
    code, out, err = run(capsys, "--points", points, "--json")
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert list(document) == ["overall", "coverage", "slices"]
    assert document["overall"]["tpot"] == pytest.approx({"median_abs_error": 0.2, "bias": 0.2, "p90": 0.2, "n": 4})
    assert document["overall"]["ttft"] == pytest.approx({"median_abs_error": 0.1, "bias": -0.1, "p90": 0.1, "n": 4})
    assert document["overall"]["throughput"]["median_abs_error"] == 0.0
    assert document["coverage"] == pytest.approx(4 / 6)
    assert [part["gpu"] for part in document["slices"]] == ["h200-sxm-141gb", "h100-sxm-80gb"]


def test_tables_say_what_was_not_predicted(capsys: Capture, points: Path) -> None:
    code, out, _ = run(capsys, "--points", points)
    assert code == 0
    for text in ("4 of 6 rows predicted", "20% ", "+20%", "h200 vllm Qwen3-32B aggregated", "weights do not fit"):
        assert text in out
    assert "unknown model 'no/one'" in out


@pytest.mark.parametrize("half", list(Half))
def test_one_half(capsys: Capture, points: Path, cost_model: list[Point], half: Half) -> None:
    expected = [point for point in read(points).points if half_of(point) is half]
    assert 0 < len(expected) < 5
    document = json.loads(run(capsys, "--points", points, "--half", half.value, "--json")[1])
    assert cost_model == expected
    assert document["coverage"] == sum(not p.gpu.startswith("h100") for p in expected) / len(expected)


def test_files_are_written(capsys: Capture, points: Path, tmp_path: Path) -> None:
    picture, folder = tmp_path / "picture.svg", tmp_path / "new" / "folder"
    code, out, _ = run(capsys, "--points", points, "--plot", picture, "--out", folder, "--json")
    assert code == 0
    assert json.loads((folder / "accuracy.json").read_text()) == json.loads(out)
    with (folder / "points.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert (rows[0]["line"], rows[0]["predicted_tpot"], rows[0]["measured_tpot"]) == ("2", "12", "10")
    assert len(rows) == 4
    text = picture.read_text()
    assert text.lstrip().startswith("<?xml")
    assert "matplotlib" in text


def test_pictures_of_png(capsys: Capture, points: Path, tmp_path: Path) -> None:
    assert run(capsys, "--points", points, "--plot", tmp_path / "picture.png")[0] == 0
    assert (tmp_path / "picture.png").read_bytes()[:4] == b"\x89PNG"


def test_nothing_predicted_is_a_failed_check(capsys: Capture, tmp_path: Path) -> None:
    path = write(tmp_path / "points.csv", {**AGGREGATED, "gpu": "h100_sxm"})
    code, out, _ = run(capsys, "--points", path, "--json")
    assert (code, json.loads(out)["coverage"]) == (4, 0.0)
    assert run(capsys, "--points", path, "--plot", tmp_path / "empty.png")[0] == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--plot", "picture.html"], ".svg or .png"),
        (["--plot", "none/picture.png"], "does not exist"),
        (["--half", "third"], "fitted"),
        (["--points", "none.csv"], "no such file"),
    ],
)
def test_bad_options(capsys: Capture, points: Path, arguments: list[str], message: str) -> None:
    code, out, err = run(capsys, *(() if "--points" in arguments else ("--points", points)), *arguments)
    assert (code, out) == (2, "")
    assert message in err


def test_a_malformed_file_is_named_with_line_and_column(capsys: Capture, tmp_path: Path) -> None:
    path = write(tmp_path / "points.csv", AGGREGATED, {**AGGREGATED, "tpot_ms": "soon"})
    code, out, err = run(capsys, "--points", path, "--json")
    assert code == 2
    assert err.startswith(f"{path}:3: tpot_ms: must be a number")
    assert json.loads(out)["error"]["line"] == 3


def test_out_must_not_be_a_file(capsys: Capture, points: Path) -> None:
    assert run(capsys, "--points", points, "--out", points)[0] == 2


def test_points_are_looked_for_beside_the_working_directory(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(validate, "CHECKOUT", tmp_path / "nowhere" / "checkout")
    code, _, err = run(capsys)
    assert code == 2
    assert "--points" in err
    assert "conc_total" in err  # the columns are listed
    (tmp_path / "shared" / "data").mkdir(parents=True)
    write(tmp_path / "shared" / "data" / "measured_serving.csv.gz", AGGREGATED)
    assert json.loads(run(capsys, "--json")[1])["overall"]["tpot"]["n"] == 1
