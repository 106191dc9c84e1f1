"""Faults seeded into every leaf of rendered files are found, or belong to a class that is known to be harmless."""

import pytest

from planner.render import Target
from tests.check.folders import CRDS
from tests.check.mutation_run import tallied

PER_TARGET = 100
"""Mutants that the suite tries for each target; `docs/check.md` has the figures of a longer run."""
NAMES = ("wide", "wide-sglang", "wide-trtllm", "units", "prefill-units", "single", "two-services", "demand-cost")
"""Plans with every engine, AFD, one and several nodes, one and several services."""


@pytest.mark.parametrize("target", list(Target))
def test_every_survivor_is_harmless(target: Target) -> None:
    if not CRDS.is_dir():
        pytest.skip("../shared/data/crds is absent: manifests are not checked against their schemas")
    tally = tallied(target, NAMES, PER_TARGET)
    assert tally.missed == []
    assert tally.tried >= 0.7 * PER_TARGET
