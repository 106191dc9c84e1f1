"""The halves: no sweep has a foot in both."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.accuracy.halves import Half, half_of, in_half, leave_one_gpu_out, leave_one_model_out
from planner.accuracy.points import Measured, Point, Workers, read
from specs.model import Precision
from specs.plan import Role
from specs.service import Engine
from tests.accuracy.points_file import AGGREGATED, write

GPUS = ("h100-sxm-80gb", "h200-sxm-141gb", "b200-sxm-180gb")
MODELS = ("Qwen/Qwen3-32B", "openai/gpt-oss-120b", "deepseek-ai/DeepSeek-R1")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Point:
    (point,) = read(write(tmp_path_factory.mktemp("points") / "points.csv", AGGREGATED)).points
    return point


def everything(base: Point) -> list[Point]:
    return [
        replace(base, model=model, gpu=gpu, engine=engine, precision=precision, workers=(workers,))
        for model in MODELS
        for gpu in GPUS
        for engine in Engine
        for precision in (Precision.FP8, Precision.FP4)
        for workers in (Workers(Role.MIXED, 1, tp, 1, 1) for tp in (1, 2, 4, 8))
    ]


def test_the_half_is_the_parity_of_a_hash(base: Point) -> None:
    digest = hashlib.sha256(b"Qwen/Qwen3-32B|h200-sxm-141gb|vllm|mixed tp4|fp8").hexdigest()
    assert half_of(base) is (Half.SCORED if int(digest[:2], 16) % 2 else Half.FITTED)


@settings(max_examples=50, deadline=None)
@given(
    st.integers(1, 9999),
    st.integers(1, 4096),
    st.text(max_size=5),
    st.floats(0.1, 1e5),
    st.integers(1, 8),
    st.sampled_from(range(72)),
)
def test_nothing_else_moves_a_point(
    base: Point, concurrency: int, line: int, source: str, tpot_ms: float, count: int, which: int
) -> None:
    point = everything(base)[which]
    moved = replace(
        point, concurrency=concurrency, line=line, source=source,
        measured=Measured(1.0, tpot_ms, None), workers=tuple(replace(w, count=count) for w in point.workers),
    )  # fmt: skip
    assert half_of(moved) is half_of(point)


def test_the_halves_share_no_configuration_and_are_about_equal(base: Point) -> None:
    points = everything(base)
    fitted, scored = (in_half(points, half) for half in Half)
    assert len(fitted) + len(scored) == len(points)
    keys = [{(p.model, p.gpu, p.engine, p.layout, p.precision) for p in half} for half in (fitted, scored)]
    assert not keys[0] & keys[1]
    assert abs(len(fitted) - len(scored)) < 4 * len(points) ** 0.5


@pytest.mark.parametrize(("folds", "names"), [(leave_one_model_out, MODELS), (leave_one_gpu_out, GPUS)])
def test_each_fold_leaves_out_all_of_one(base: Point, folds: object, names: tuple[str, ...]) -> None:
    assert callable(folds)
    points = everything(base)
    found = list(folds(iter(points)))
    assert [fold.left_out for fold in found] == sorted(names)
    for fold in found:
        assert len(fold.fitted) + len(fold.scored) == len(points)
        assert all(fold.left_out in (point.model, point.gpu) for point in fold.scored)
        assert not any(fold.left_out in (point.model, point.gpu) for point in fold.fitted)
    assert sum(len(fold.scored) for fold in found) == len(points)


def test_workers_of_both_sides_count(tmp_path: Path, base: Point) -> None:
    sides = (Workers(Role.PREFILL, 1, 1, 8, 8), Workers(Role.DECODE, 2, 8, 1, 8))
    assert replace(base, workers=sides).layout == "prefill dp8 ep8 + decode tp8 ep8"
