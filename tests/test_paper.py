"""docs/paper.md against fresh plans: the strict scenarios reach what the page says, and the page says enough."""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from planner.api import plan
from specs.load import load_scenario
from specs.scenario import Scenario
from specs.service import Mode, Statistic

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("chat", "coding", "agentic")
MODES = {
    "aggregated": Mode.AGGREGATED,
    "P/D": Mode.PREFILL_DECODE,
    "AFD": Mode.AFD,
    "P/D + AFD": Mode.PREFILL_DECODE_AFD,
}
CLAIM_TOK_S = 4000.0
AGREEMENT = 0.005


@dataclass(frozen=True)
class Row:
    name: str
    mode: Mode
    tok_s: float
    words: str


def rows(block: str) -> list[Row]:
    """The rows of one of the page's tables of results."""
    text = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
    found = re.search(rf"<!-- {block} -->\n(.*?)\n<!-- /{block} -->", text, re.DOTALL)
    assert found is not None, f"docs/paper.md has no table {block}"
    cells = [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in found[1].splitlines()[2:]]
    return [Row(cell[0], MODES[cell[1]], float(cell[2].replace(",", "")), cell[-1]) for cell in cells]


def best(name: str) -> Row:
    return max((row for row in rows("strict") if row.name == name), key=lambda row: row.tok_s)


@cache
def example(name: str) -> Scenario:
    return load_scenario(str(ROOT / "examples" / f"{name}.yaml"))


def tok_s(scenario: Scenario) -> float:
    found = plan(scenario, explain=False)
    return found.services[0].throughput_tok_s if found.services else 0.0


def in_mode(scenario: Scenario, mode: Mode, statistic: Statistic = Statistic.MEAN) -> Scenario:
    (service,) = scenario.services
    slo = service.slo.model_copy(update={"statistic": statistic})
    service = service.model_copy(update={"modes": (mode,), "slo": slo})
    return scenario.model_copy(update={"services": (service,)})


@pytest.mark.parametrize("block", ["strict", "slower"])
def test_every_mode_reaches_something_or_is_killed_by_a_named_constraint(block: str) -> None:
    found = rows(block)
    assert [(row.name, row.mode) for row in found] == [(name, mode) for name in NAMES for mode in Mode]
    for row in found:
        by_one = re.match(r"dead by (TTFT|TPOT): at least [\d.]+ ms while .*, of [\d.]+ ms", row.words)
        dead = by_one or row.words.endswith("within both SLOs")
        assert (row.tok_s == 0.0) == bool(dead), row


@pytest.mark.parametrize("name", NAMES)
def test_the_best_mode_of_the_page_is_what_a_fresh_plan_reaches(name: str) -> None:
    row = best(name)
    assert tok_s(in_mode(example(name), row.mode)) == pytest.approx(row.tok_s, rel=AGREEMENT)


@pytest.mark.parametrize("name", NAMES)
def test_strict_scenarios_reach_the_claimed_throughput_or_name_what_binds(name: str) -> None:
    row = best(name)
    if row.tok_s >= CLAIM_TOK_S:
        return
    found = plan(in_mode(example(name), row.mode))
    assert found.explanation.binding or found.explanation.relaxations


@pytest.mark.parametrize("name", NAMES)
def test_slower_kernels_and_network_never_help(name: str) -> None:
    full = {row.mode: row.tok_s for row in rows("strict") if row.name == name}
    slow = {row.mode: row.tok_s for row in rows("slower") if row.name == name}
    assert all(slow[mode] <= full[mode] * (1.0 + 1e-3) for mode in full)


def test_the_tail_costs_throughput() -> None:
    mean = example("aiconfigurator-qwen3-32b-fp8-32xh200")
    assert 0.0 < tok_s(example("p99")) < tok_s(mean)


def test_p99_never_exceeds_the_mean_of_a_strict_scenario() -> None:
    row = best("agentic")
    assert tok_s(in_mode(example("agentic"), row.mode, Statistic.P99)) <= row.tok_s * (1.0 + AGREEMENT)
