"""Faults seeded into every leaf of rendered files are found, or belong to a class that is known to be harmless."""

from collections import Counter

import pytest

from planner.render import Target
from specs.errors import SpecError
from tests.check.folders import CRDS, Folder, folders
from tests.check.harmless import CLASSES, class_of
from tests.check.mutators import Mutant, sampled

PER_TARGET = 100
"""Mutants that the suite tries for each target; `docs/check.md` has the figures of a longer run."""
NAMES = ("wide", "wide-sglang", "wide-trtllm", "units", "prefill-units", "single", "two-services", "demand-cost")
"""Plans with every engine, AFD, one and several nodes, one and several services."""


def killed(found: Folder, mutant: Mutant) -> bool:
    """Whether the check refuses a folder with one fault."""
    try:
        return not found.check({mutant.file: mutant.write()}).ok
    except SpecError:
        return True


def survivors(found: Folder, share: float) -> tuple[int, list[Mutant]]:
    """How many mutants were tried, and those that the check did not find."""
    tried, left = 0, []
    for file, text in found.files.items():
        for mutant in sampled(file, text, share, found.name):
            tried += 1
            if not killed(found, mutant):
                left.append(mutant)
    return tried, left


@pytest.mark.parametrize("target", list(Target))
def test_every_survivor_is_harmless(target: Target) -> None:
    if not CRDS.is_dir():
        pytest.skip("../shared/data/crds is absent: manifests are not checked against their schemas")
    there = [each for each in folders(NAMES) if each.name.endswith(f"@{target.value}")]
    counts = {
        each.name: sum(1 for file, text in each.files.items() for _ in sampled(file, text, 1.0, "")) for each in there
    }
    tried, classes, missed = 0, Counter[str](), list[str]()
    for each in there:
        share = PER_TARGET / len(there) / counts[each.name]
        count, left = survivors(each, share)
        tried += count
        for mutant in left:
            name = class_of(mutant)
            if name is None:
                missed.append(f"{each.name}: {mutant}")
            else:
                classes[name] += 1
    assert missed == []
    assert tried >= 0.7 * PER_TARGET
    assert set(classes) <= set(CLASSES)
