import io
import math
import time
from typing import Any

import pytest
from pydantic import ValidationError
from rich.console import Console, RenderableType

from planner.view.compare_view import compare_view
from planner.view.explain_view import explain_view
from planner.view.figures import number
from planner.view.pareto_chart import Axis, pareto_chart
from planner.view.plan_view import plan_view
from planner.view.progress import progress, status
from specs.comparison import Alternatives, Comparison
from specs.load import parse_scenario
from tests.cli.fabricated import SCENARIO, comparison, found_plan, missing_plan

WIDTH = 100


class Terminal(io.StringIO):
    """A terminal that keeps what is written to it."""

    def isatty(self) -> bool:
        return True


def drawn(view: RenderableType, styles: bool = False) -> str:
    console = Console(
        file=io.StringIO(), record=True, width=WIDTH, force_terminal=True, color_system="standard", markup=False,
        highlight=False,
    )  # fmt: skip
    console.print(view)
    return console.export_text(styles=styles)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (17232.4, "17,232"), (88, "88"), (14.25, "14.25"), (4.321, "4.321"), (0.012345, "0.01235"),
     (123.46, "123.5"), (999.96, "1000"), (1e-5, "1e-05"), (-15.5, "-15.5")],
)  # fmt: skip
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text


def test_a_number_reads_back_within_its_digits() -> None:
    for exponent in range(-6, 9):
        for mantissa in (1.0, 1.23456, 9.8765, 9.9999):
            value = mantissa * 10.0**exponent
            assert math.isclose(float(number(value).replace(",", "")), value, rel_tol=5.1e-4)


def test_a_plan_shows_its_figures() -> None:
    text = drawn(plan_view(found_plan(), parse_scenario(SCENARIO)))
    facts = [
        "OPTIMAL", "4,321 output tokens/s", "within 0.05%", "1.25 s", "4.321 requests/s", "TTFT 91.5 ms <= 100 ms met",
        "TPOT 14.25 ms <= 15 ms met", "4 x 8 = 32", "tp2 dp4 ep8", "16,384", "71.3%", "ep16 mb3",
        "2 x (3 attention of 4 GPUs + 1 ffn of 16 GPUs)", "88 GPUs used, 40 idle", "431.2 per hour",
        "27.72 per million output tokens", "123.4 kW", "4,323 output tokens/s", "0.03% left by the solver",
        "0.02% by grids", "1, 2, 4", "336", "1,234 by memory", "4 replicas] takes all but 8.5 ms", "4,753", "+10.00%",
        "no plan", "speculative decoding is off", "held back by TTFT of prefill",
    ]  # fmt: skip
    assert [fact for fact in facts if fact not in text] == []
    bar = next(line for line in text.splitlines() if "GPUs used" in line)
    assert bar.count("█") == round(40 * 88 / 128)


def test_a_missed_objective_is_red_and_said() -> None:
    scenario = parse_scenario(SCENARIO)
    assert "15.75 ms > " in drawn(plan_view(found_plan(tpot_ms=15.75), scenario))
    assert "MISSED" in drawn(plan_view(found_plan(tpot_ms=15.75), scenario))
    assert "\x1b[1;31m15.75 ms" in drawn(plan_view(found_plan(tpot_ms=15.75), scenario), styles=True)
    assert "\x1b[1;32m14.25 ms" in drawn(plan_view(found_plan(), scenario), styles=True)


def test_without_a_scenario_no_objective_is_claimed() -> None:
    text = drawn(plan_view(found_plan()))
    assert "TPOT 14.25 ms" in text
    assert "met" not in text.split("Proof")[0]


def test_an_infeasible_plan_shows_every_relaxation() -> None:
    for view in (plan_view(missing_plan()), explain_view(missing_plan())):
        text = drawn(view)
        assert "INFEASIBLE" in text
        assert "15 -> 16.25 ms" in text
        assert "confirmed" in text
        assert "nothing suffices" in text


def test_a_comparison_shows_every_mode() -> None:
    text = drawn(compare_view(comparison(), parse_scenario(SCENARIO)))
    facts = [
        "prefill + AFD decode is best: 4,321", "1,850", "3,700", number(1850 / 128), number(3700 / 80),
        number(4321 / 88), "prefill chunks stretch the decode step past 15 ms", "mixed 16x(tp8 ep8)",
        "TPOT cannot be met", "15 -> 16.25 ms", "every mode got the same kernels", "┊ TPOT 15 ms",
    ]  # fmt: skip
    assert [fact for fact in facts if fact not in text] == []


@pytest.mark.parametrize("view", [
    plan_view(found_plan(), parse_scenario(SCENARIO)), plan_view(missing_plan()), explain_view(found_plan()),
    compare_view(comparison(), parse_scenario(SCENARIO)),
])  # fmt: skip
def test_no_line_is_wider_than_the_terminal(view: RenderableType) -> None:
    assert max(len(line.rstrip()) for line in drawn(view).splitlines()) <= WIDTH


def test_the_chart_puts_every_point_where_it_belongs() -> None:
    found = comparison()
    lines = drawn(pareto_chart(found, parse_scenario(SCENARIO))).splitlines()
    rows = [line[11:] for line in lines if line[10:11] in "┤│"]
    ends = [float(line[:9].replace(",", "")) for line in lines if line[10:11] == "┤"]
    assert ends == sorted(ends, reverse=True)
    right = float(next(line for line in lines if line.startswith(" " * 11 + "0 ")).split()[-1].replace(",", ""))
    last_row, last_column = len(rows) - 1, 80
    best = next(result for result in found.modes if result.mode is found.best)
    for point in best.pareto:
        row = last_row - round(point.tokens_per_s_per_gpu / ends[0] * last_row)
        column = round(point.tokens_per_s_per_user / right * last_column)
        assert rows[row][column] == "◆"
    assert sum(row.count("◆") for row in rows) == len(best.pareto)


def test_an_axis_is_logarithmic_where_the_range_needs_it() -> None:
    axis = Axis([1.0, 10.0, 1000.0], 60)
    assert [axis.position(value) for value in (1.0, 10.0, 1000.0)] == [0, 20, 60]
    assert axis.value(20) == pytest.approx(10.0)
    assert not Axis([0.0, 1000.0], 60).logarithmic


def test_the_progress_line() -> None:
    line = status("solving", 4000.0, 4100.0, 30.0, 60.0)
    assert line.startswith("━" * 10 + "╌" * 10)
    assert "plan 4,000  bound 4,100  gap 2.5%" in line


def test_progress_is_drawn_on_a_terminal_after_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr("planner.view.progress.DELAY_S", 0.05)
    with progress(60.0) as report:
        report("choosing layouts", 4000.0, 4100.0)
        time.sleep(0.5)
    assert "choosing layouts" in terminal.getvalue()
    quick = Terminal()
    monkeypatch.setattr("sys.stderr", quick)
    monkeypatch.setattr("planner.view.progress.DELAY_S", 5.0)
    with progress(60.0) as report:
        report("choosing layouts", None, None)
    assert quick.getvalue() == ""


def test_no_progress_is_drawn_where_no_terminal_is(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(60.0) as report:
        report("solving", None, None)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"best": "afd"}, "must be a mode that has a plan"),
        ({"best": None}, "must be a mode that has a plan"),
        ({"modes": []}, "modes"),
        ({"modes": [{"mode": "afd", "status": "optimal"}], "best": "afd"}, "is required with status optimal"),
        ({"modes": [{"mode": "afd", "status": "infeasible", "value": 1.0}]}, "must be null with status infeasible"),
        ({"modes": [{"mode": "afd", "status": "infeasible"}] * 2, "best": None}, "must name each mode once"),
    ],
)
def test_a_comparison_that_contradicts_itself_is_refused(change: dict[str, Any], message: str) -> None:
    document = comparison().model_dump(by_alias=True, mode="json")
    with pytest.raises(ValidationError, match=message):
        Comparison.model_validate({**document, **change})


def test_a_comparison_survives_its_own_json() -> None:
    assert Comparison.model_validate_json(comparison().to_json()) == comparison()


def test_alternatives_need_plans() -> None:
    with pytest.raises(ValueError, match="were found"):
        Alternatives.of((found_plan(), missing_plan()))
