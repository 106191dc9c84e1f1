"""Writes docs/accuracy.md: `python benchmarks/accuracy.py --write docs/accuracy.md` (about ten minutes).

With it goes specs/data/accuracy.json, the errors by GPU and engine that plans state beside their gap.

Without `--write` the page goes to standard output. `--points FILE` scores another file than the shared one.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from planner.accuracy.estimate import CostModel
from planner.accuracy.export import by_gpu_and_engine
from planner.accuracy.fit import fitted
from planner.accuracy.halves import Half, in_half
from planner.accuracy.known import FILE
from planner.accuracy.page import page
from planner.accuracy.points import read
from planner.accuracy.score import score

SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "measured_serving.csv.gz"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=Path, default=SHARED, help="CSV file of measured points")
    parser.add_argument("--write", type=Path, help="write the page to this file")
    parser.add_argument("--fit", action="store_true", help="only print the engines' parameters that the fit finds")
    arguments = parser.parse_args()
    corpus = read(arguments.points)
    if arguments.fit:
        found = fitted(in_half(corpus.points, Half.FITTED), most=len(corpus.points))
        for engine, traits in found.sites.engines.items():
            print(f"{engine.value}: sequence_us {traits.sequence_us:g}, lag_steps {traits.lag_steps:g}, ", end="")
            print(f"delay_ms {traits.delay_ms:g}")
        return 0
    model = CostModel()
    report = score(corpus.points, model, corpus.refused)
    text = page(corpus, report, lambda points: fitted(points, model.sites))
    if arguments.write:
        arguments.write.write_text(text, encoding="utf-8")
        FILE.write_text(json.dumps(by_gpu_and_engine(report), indent=1, sort_keys=True) + "\n", encoding="utf-8")
    else:
        sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
