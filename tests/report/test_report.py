"""The page: whole, self-contained, and saying what the plan says."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from planner.api import compare, plan
from planner.report import report_html
from planner.report.markup import tag
from specs.errors import SpecError
from specs.load import load_scenario
from specs.plan import Plan, Role
from specs.scenario import Pool
from specs.service import Mode
from tests.launch.plans import plan_of, unit, worker
from tests.planner.scenarios import scenario, service

EXAMPLES = Path(__file__).parents[2] / "examples"
VOID = {"meta", "br", "hr", "img"}


class Page(HTMLParser):
    """Collects text, and refuses elements that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.said: list[str] = []
        self.titles: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        if name not in VOID:
            self.open.append(name)

    def handle_startendtag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name

    def handle_data(self, data: str) -> None:
        (self.titles if "svg" in self.open and self.open[-1] == "title" else self.said).append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.said).split())


@pytest.fixture(scope="module")
def found() -> Plan:
    return plan(scenario(service(model="Qwen/Qwen3-30B-A3B", launchable=False)), time_limit_s=60.0)


def test_the_page_says_what_the_plan_says(found: Plan) -> None:
    text = Page(report_html(found)).text
    (served,) = found.services
    assert f"{served.throughput_tok_s:,.0f} output tokens/s" in text
    assert served.ttft_ms is not None
    assert f"of the {300} ms allowed (mean)" in text
    for pool in served.deployments[0].pools:
        assert f"{pool.replicas} x {pool.gpus_per_replica} = {pool.gpus}" in text
    assert f"{sum(found.gpus_used.values())} of 8" in text
    for binding in found.explanation.binding:
        assert binding.detail in text
    assert "of the best possible" in text
    assert '"schema": "cleave.scenario/1"' in text


def test_the_page_needs_nothing_from_elsewhere(found: Plan) -> None:
    page = report_html(found)
    assert not re.search(r"""(?:src|href|url|@import)\s*[=(]""", page)
    assert "<script" not in page


def test_modes_are_set_side_by_side(found: Plan) -> None:
    assert found.scenario is not None
    comparison = compare(found.scenario, time_limit_s=60.0)
    page = Page(report_html(found, comparison))
    for result in comparison.modes:
        assert result.reason in page.text
    points = [point for result in comparison.modes for point in result.pareto]
    assert points
    assert sum(", TPOT " in title for title in page.titles) == len(points)


def test_every_kind_of_node_is_drawn_once() -> None:
    pools = [*unit(2, 16, 8), worker(1, 16, Role.PREFILL)]
    cluster = [Pool(name="h100", gpu="h100", count=72)]
    page = Page(report_html(plan_of(pools, mode=Mode.PREFILL_DECODE_AFD, cluster=cluster)))
    drawn = [title for title in page.titles if "instance" in title or title == "idle"]
    # Two nodes of prefill, four of attention, two of FFN and an idle one.
    assert len(drawn) == 4 * 8
    assert drawn.count("idle") == 8
    assert {"2 x node like", "4 x node like"} <= {words[:13] for words in page.said}
    assert any("64 of 72 GPUs of pool h100 are used" in title for title in page.titles)


def test_an_infeasible_plan_says_what_would_help() -> None:
    nothing = plan(load_scenario(EXAMPLES / "infeasible.yaml"), time_limit_s=60.0)
    text = Page(report_html(nothing)).text
    assert "There is no plan that serves assistant" in text
    for change in nothing.explanation.relaxations:
        assert change.detail in text


def test_what_a_scenario_says_is_never_markup() -> None:
    made = plan_of([worker(1, 8)])
    assert made.scenario is not None
    hostile = "<script>alert(1)</script>&\"'"
    service = made.scenario.services[0].model_copy(update={"model": hostile})
    renamed = made.model_copy(update={"scenario": made.scenario.model_copy(update={"services": (service,)})})
    with pytest.raises(SpecError):  # no such model: nothing can be launched
        report_html(renamed)
    assert tag("td", hostile, title=hostile).text == (
        '<td title="&lt;script&gt;alert(1)&lt;/script&gt;&amp;&quot;&#x27;">'
        "&lt;script&gt;alert(1)&lt;/script&gt;&amp;&quot;&#x27;</td>"
    )


def test_a_plan_without_its_scenario_is_refused() -> None:
    with pytest.raises(SpecError, match="a plan written by `cleave plan`"):
        report_html(plan_of([worker(1, 8)]).model_copy(update={"scenario": None}))
