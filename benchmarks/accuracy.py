"""Writes docs/accuracy.md: `python benchmarks/accuracy.py --write docs/accuracy.md` (about a minute).

Without `--write` the page goes to standard output. `--points FILE` scores another file than the shared one.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from planner.accuracy.estimate import CostModel
from planner.accuracy.page import page
from planner.accuracy.points import read
from planner.accuracy.score import score

SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "measured_serving.csv.gz"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=Path, default=SHARED, help="CSV file of measured points")
    parser.add_argument("--write", type=Path, help="write the page to this file")
    arguments = parser.parse_args()
    corpus = read(arguments.points)
    text = page(corpus, score(corpus.points, CostModel(), corpus.refused))
    if arguments.write:
        arguments.write.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
