"""What the pages say of the engines' values."""

from pathlib import Path

import pytest

from planner.costs import engines
from specs.service import Engine

PAGE = Path(__file__).resolve().parents[2] / "docs" / "cost-model.md"
COLUMNS = (Engine.VLLM, Engine.SGLANG, Engine.TRTLLM)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("SEQUENCE_US", engines.SEQUENCE_US),
        ("LAG_STEPS", engines.LAG_STEPS),
        ("DELAY_MS", engines.DELAY_MS),
        ("HAND_OVER_MS", dict.fromkeys(Engine, engines.HAND_OVER_MS)),
    ],
)
def test_the_page_of_the_cost_model_has_the_values_in_use(name: str, values: dict[Engine, float]) -> None:
    (row,) = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith(f"| `{name}` |")]
    assert [float(cell) for cell in row.split("|")[2:5]] == [values[engine] for engine in COLUMNS]


def test_all_fitted_values_are_listed() -> None:
    listed = {(each.name, each.scope): each.value for each in engines.FITTED}
    assert listed == {
        (name, engine.value): getattr(traits, name)
        for engine, traits in engines.ENGINES.items()
        for name in ("sequence_us", "lag_steps", "delay_ms")
    }
