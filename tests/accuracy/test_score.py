"""Scores against figures computed by hand."""

import math
import statistics
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.accuracy.points import Measured, Point, Refused, read
from planner.accuracy.score import Errors, Estimate, Metric, noise_of, score
from specs.errors import SpecError
from tests.accuracy.points_file import AGGREGATED, write


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Point:
    (point,) = read(write(tmp_path_factory.mktemp("points") / "points.csv", AGGREGATED)).points
    return point


def measured(base: Point, ttft: float | None, tpot: float | None, throughput: float | None, **fields: object) -> Point:
    return replace(base, measured=Measured(ttft, tpot, throughput), **fields)  # type: ignore[arg-type]


def test_errors_by_hand() -> None:
    # e = +10%, -20%, +50%, 0%: |e| sorted 0, 10, 20, 50; e sorted -20, 0, 10, 50.
    errors = Errors.of([11.0, 8.0, 15.0, 10.0], [10.0] * 4)
    assert errors is not None
    assert errors.median_abs_error == pytest.approx(0.15)
    assert errors.bias == pytest.approx(0.05)
    assert errors.mean_error == pytest.approx(0.10)
    assert errors.p90 == pytest.approx(0.20 + 0.7 * 0.30)  # rank 0.9 x 3 = 2.7 between 20% and 50%
    assert errors.n == 4
    assert errors.median_log_ratio == pytest.approx((math.log(1.1) + math.log(1 / 0.8)) / 2)
    assert Errors.of([], []) is None


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(0.01, 1e6), st.floats(0.01, 1e6)), min_size=1, max_size=30))
def test_errors_against_the_standard_library(pairs: list[tuple[float, float]]) -> None:
    errors = Errors.of([p for p, _ in pairs], [m for _, m in pairs])
    assert errors is not None
    signed = [p / m - 1 for p, m in pairs]
    assert errors.median_abs_error == pytest.approx(statistics.median(map(abs, signed)))
    assert errors.bias == pytest.approx(statistics.median(signed))
    assert errors.mean_error == pytest.approx(statistics.fmean(signed))
    assert errors.p90 <= max(map(abs, signed)) * (1 + 1e-9)


def test_a_perfect_prediction_scores_zero_and_a_double_one_hundred_percent(base: Point) -> None:
    truth = (5.0, 50.0, 500.0)
    points = [measured(base, size, size / 7, 3 * size, line=line) for line, size in enumerate(truth)]

    def times(factor: float, point: Point) -> Estimate:
        size = truth[point.line] * factor
        return Estimate(size, size / 7, 3 * size)

    for factor, error in ((1.0, 0.0), (2.0, 1.0), (0.5, -0.5)):
        report = score(points, partial(times, factor))
        assert report.coverage == 1.0
        for metric in Metric:
            errors = report.overall[metric]
            assert errors.bias == pytest.approx(error)
            assert errors.median_abs_error == pytest.approx(abs(error))
            assert errors.median_log_ratio == pytest.approx(abs(math.log(factor)))


def test_what_is_missing_on_either_side_is_not_scored(base: Point) -> None:
    points = [measured(base, 100.0, 10.0, None), measured(base, None, 20.0, 5.0), measured(base, 1.0, None, None)]
    report = score(points, lambda point: Estimate(ttft_ms=None, tpot_ms=11.0, throughput_tok_s_per_gpu=4.0))
    assert Metric.TTFT not in report.overall
    assert (report.overall[Metric.TPOT].n, report.overall[Metric.THROUGHPUT].n) == (2, 1)
    assert report.overall[Metric.TPOT].median_abs_error == pytest.approx((0.1 + 0.45) / 2)
    assert len(report.priced) == 2
    assert report.reasons == (("nothing that was measured is predicted", 1),)


def test_coverage_counts_refused_rows_and_points_that_cannot_be_predicted(base: Point) -> None:
    points = [replace(base, line=line, model=model) for line, model in enumerate(("a", "b", "b"))]

    def estimator(point: Point) -> Estimate:
        if point.model == "b":
            raise SpecError("weights do not fit")
        return Estimate(tpot_ms=10.0)

    report = score(points, estimator, [Refused(9, "x", "unknown gpu 'z'")])
    assert (report.rows, report.coverage) == (4, 0.25)
    assert report.reasons == (("weights do not fit", 2), ("unknown gpu 'z'", 1))
    assert {(part.model, part.points, part.priced) for part in report.slices} == {("a", 1, 1), ("b", 2, 0)}


def test_an_error_of_ours_is_not_swallowed(base: Point) -> None:
    def estimator(point: Point) -> Estimate:
        raise KeyError(point.model)

    with pytest.raises(KeyError):
        score([base], estimator)


def test_slices_stand_worst_first(base: Point) -> None:
    points = [measured(base, 10.0, 10.0, 10.0, gpu=gpu) for gpu in ("good", "bad", "good", "worse")]
    predicted = {"good": 10.0, "bad": 15.0, "worse": 5.0}
    report = score(
        points, lambda point: Estimate(tpot_ms=predicted[point.gpu], ttft_ms=30 if point.gpu == "bad" else 9)
    )
    assert [part.gpu for part in report.slices] == ["bad", "worse", "good"]  # TPOT ties are broken by TTFT
    assert report.slices[2].points == 2


def test_the_json_form(base: Point) -> None:
    report = score([base], lambda point: Estimate(tpot_ms=12.0))
    nothing = {"median_abs_error": None, "bias": None, "p90": None, "n": 0}
    tpot = {"median_abs_error": 0.2, "bias": 0.2, "p90": 0.2, "n": 1}
    scores = {"tpot": pytest.approx(tpot), "throughput": nothing, "ttft": nothing}
    part = {"gpu": base.gpu, "engine": "vllm", "model": base.model, "mode": "aggregated", "points": 1, "coverage": 1.0}
    assert report.to_dict() == {"overall": scores, "coverage": 1.0, "slices": [{**part, **scores}]}


def test_the_noise_of_repeats(base: Point) -> None:
    repeats = [measured(base, ttft, tpot, None, source=str(tpot)) for ttft, tpot in ((100.0, 10.0), (150.0, 11.0))]
    other = measured(base, 7.0, 7.0, 7.0, concurrency=1)
    noise = noise_of([*repeats, other])
    assert set(noise) == {Metric.TPOT, Metric.TTFT}
    assert (noise[Metric.TPOT].groups, noise[Metric.TPOT].median) == (1, pytest.approx(1 / 21))
    assert noise[Metric.TTFT].p90 == pytest.approx(50 / 250)
    assert noise_of([other]) == {}
    copy = measured(base, 100.004, 9.996, None, source="the same, rounded")
    assert noise_of([*repeats, copy]) == noise
    assert noise_of([repeats[0], copy]) == {}
