"""Tries faults in rendered files, and says which of them the check does not find, by class.

`python -m tests.check.mutation_run [--per-target N]` writes the table of `docs/check.md`; it ends with 1 where a
survivor belongs to no class.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from planner.render import Target
from specs.errors import SpecError
from tests.check.folders import HAND, Folder, folders
from tests.check.harmless import CLASSES, class_of
from tests.check.mutators import Mutant, sampled
from tests.render.plans import NAMES

PER_TARGET = 550
"""Mutants of each target in the run that `docs/check.md` has the figures of."""


@dataclass
class Tally:
    """What came of mutants: how many were tried, survivors by class, and those of no class."""

    tried: int = 0
    classes: Counter[str] = field(default_factory=Counter)
    missed: list[str] = field(default_factory=list)


def killed(found: Folder, mutant: Mutant) -> bool:
    """Whether the check refuses a folder with one fault."""
    try:
        return not found.check({mutant.file: mutant.write()}).ok
    except SpecError:
        return True


def tallied(target: Target, names: Sequence[str], per_target: int) -> Tally:
    """Try about so many mutants of a target, the same ones each time, as many of each plan."""
    there = [each for each in folders(tuple(names)) if each.name.endswith(f"@{target.value}")]
    tally = Tally()
    for found in there:
        count = sum(1 for file, text in found.files.items() for _ in sampled(file, text, 1.0, ""))
        share = per_target / len(there) / count
        for file, text in found.files.items():
            for mutant in sampled(file, text, share, found.name):
                tally.tried += 1
                if killed(found, mutant):
                    continue
                name = class_of(mutant)
                if name is None:
                    tally.missed.append(f"{found.name}: {mutant}")
                else:
                    tally.classes[name] += 1
    return tally


def main(arguments: Sequence[str] | None = None) -> int:
    """Run over all plans and targets."""
    parser = argparse.ArgumentParser(prog="python -m tests.check.mutation_run", description=__doc__)
    parser.add_argument("--per-target", type=int, default=PER_TARGET, help="mutants of each target")
    asked = parser.parse_args(arguments)
    total = Tally()
    for target in Target:
        tally = tallied(target, (*HAND, *NAMES), asked.per_target)
        print(f"{target.value}: {tally.tried} mutants, {sum(tally.classes.values())} survivors", file=sys.stderr)
        total.tried += tally.tried
        total.classes += tally.classes
        total.missed += tally.missed
    survivors = sum(total.classes.values()) + len(total.missed)
    print(f"{total.tried:,} mutants, {total.tried - survivors:,} found, {survivors:,} survivors")
    for name in sorted(CLASSES, key=lambda name: -total.classes[name]):
        print(f"| {name} | {total.classes[name]} |")
    for missed in total.missed:
        print(f"in no class: {missed}")
    return 1 if total.missed else 0


if __name__ == "__main__":
    sys.exit(main())
