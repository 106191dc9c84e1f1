"""The page made of scores."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from planner.accuracy.halves import Half, half_of
from planner.accuracy.page import page
from planner.accuracy.points import Corpus, Point, read
from planner.accuracy.score import Estimate, score
from planner.costs import anchors
from tests.accuracy.points_file import AGGREGATED, write

GPUS = ("h100_sxm", "h200_sxm", "b200_sxm")
MODELS = ("Qwen/Qwen3-32B", "meta-llama/Llama-3.1-70B")


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Corpus:
    monkeypatch.setattr(anchors, "rows", lambda: [anchors.Row("a figure", 2000.0, 2500.0, "at once")])
    rows = [
        {**AGGREGATED, "gpu": gpu, "model": model, "tp": tp, "n_gpus": tp}
        for gpu in GPUS
        for model in MODELS
        for tp in ("1", "2", "4", "8")
    ]
    return read(write(tmp_path / "points.csv", *rows, {**AGGREGATED, "model": "no/one"}))


def estimate(point: Point) -> Estimate:
    return Estimate(ttft_ms=130.0, tpot_ms=10.5, throughput_tok_s_per_gpu=380.0)


def test_targets_are_judged_on_the_scored_half(corpus: Corpus) -> None:
    text = page(corpus, score(corpus.points, estimate, corpus.refused), lambda points: estimate)
    assert "| TPOT, median error | 17.5% | <= 10.0% | 5.0% | met |" in text
    assert "| TTFT, median error | 46.6% | <= 20.0% | 30.0% | missed |" in text
    assert "| rows predicted at all | 91.0% | >= 98.0% | 96.0% | missed |" in text  # 24 of 25
    assert "| unknown model 'no/one' | 1 |" in text
    assert "| a figure | 2000 | 2500 | 1.25 | at once |" in text


def test_each_fold_is_fitted_without_what_it_leaves_out(corpus: Corpus) -> None:
    seen: list[set[str]] = []

    def fit(points: Sequence[Point]) -> object:
        assert all(half_of(point) is Half.FITTED for point in points)
        seen.append({name for point in points for name in (point.model, point.gpu)})
        return lambda point: Estimate(tpot_ms=20.0 if {point.model, point.gpu} <= seen[-1] else 15.0)

    text = page(corpus, score(corpus.points, estimate, corpus.refused), fit)  # type: ignore[arg-type]
    assert len(seen) == len(MODELS) + len(GPUS)
    for model in MODELS:
        assert f"| {model} | 50.0% | - | - | 12 |" in text
    assert "| h100-sxm-80gb | 50.0% | - | - | 8 |" in text
