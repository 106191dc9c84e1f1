"""Predictions of published throughput, and the page that shows them."""

from pathlib import Path

import pytest

from planner.costs.anchors import ANCHORS, WITHIN, Anchor, table

PAGE = Path(__file__).parents[2] / "docs" / "cost-model.md"
NAMES = [f"{anchor.name}, {anchor.source}" for anchor in ANCHORS]


@pytest.mark.parametrize("anchor", ANCHORS, ids=NAMES)
def test_the_schedule_that_was_measured_is_predicted_within_the_factor(anchor: Anchor) -> None:
    assert 1 / WITHIN <= anchor.ratio(overlap=True) <= WITHIN


@pytest.mark.parametrize("anchor", ANCHORS, ids=NAMES)
def test_overlap_pays_and_hides_no_more_than_half(anchor: Anchor) -> None:
    serial, overlapped = anchor.predicted(overlap=False), anchor.predicted(overlap=True)
    assert serial < overlapped < serial * (anchor.microbatches if anchor.phase == "afd" else 2.0)


def test_the_required_figures_are_among_them() -> None:
    assert {2785, 2325, 7209, 6818, 6288, 4039} <= {anchor.measured for anchor in ANCHORS}


def test_the_page_carries_the_current_table() -> None:
    assert table() in PAGE.read_text()
