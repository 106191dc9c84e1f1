"""Texts that are too large are refused before anything large is made of them."""

import json
import time
from typing import Any

import pytest

from specs.errors import SpecError
from specs.load import MAX_LINED_CHARACTERS, parse_plan, parse_scenario

POOL = {"name": "h100", "gpu": "h100-sxm-80gb", "count": 8}
SERVICE: dict[str, Any] = {
    "name": "chat",
    "model": "meta-llama/Llama-3.1-8B",
    "workload": {"input_tokens": 100, "output_tokens": 10},
    "slo": {"ttft_ms": 100, "tpot_ms": 10},
}
LISTS = {
    "cluster.pools": 1000,
    "services": 1000,
    "services[0].modes": 4,
    "services[0].expert_loads": 10_000,
    "services[0].limits.tp": 1000,
    "services[0].limits.ep": 1000,
    "services[0].limits.pools": 1000,
    "services[0].workload.prefix_at": 2,
    "services[0].workload.input_tokens.values": 10_000,
    "services[0].workload.input_tokens.weights": 10_000,
}


def scenario_with(field: str, items: list[Any]) -> str:
    """A scenario with a list in one of its fields."""
    scenario: dict[str, Any] = {
        "schema": "cleave.scenario/1",
        "cluster": {"pools": [POOL]},
        "services": [json.loads(json.dumps(SERVICE))],
        "objective": {"maximize": "throughput"},
    }
    if "input_tokens" in field:
        scenario["services"][0]["workload"]["input_tokens"] = {"values": [1], "weights": [1]}
    place, *path = (scenario["services"][0] if "[0]" in field else scenario), *field.split("[0].")[-1].split(".")
    for name in path[:-1]:
        place = place.setdefault(name, {})
    place[path[-1]] = items
    return json.dumps(scenario)


@pytest.mark.parametrize(("field", "most"), LISTS.items())
def test_a_long_list_is_one_error(field: str, most: int) -> None:
    with pytest.raises(SpecError, match=f"must be a list of at most {most}, got a list") as caught:
        parse_scenario(scenario_with(field, [{}] * 50_000))
    assert (caught.value.field, caught.value.parts) == (field, ())


def test_long_documents_are_refused_before_they_are_composed() -> None:
    start = time.monotonic()
    with pytest.raises(SpecError, match="has more than 300,000 values"):
        parse_plan(f"a: [{'1,' * 2_000_000}1]")
    assert time.monotonic() - start < 10.0


def test_errors_of_very_long_texts_have_no_lines() -> None:
    short, padding = '{"schema": "cleave.plan/2"', " " * MAX_LINED_CHARACTERS
    for text, line in ((f"\n{short}}}", 2), (f"\n{short}{padding}}}", None)):
        with pytest.raises(SpecError) as caught:
            parse_plan(text)
        assert (caught.value.field, caught.value.line) == ("schema", line)


def test_missing_fields_are_told_in_the_order_of_the_models() -> None:
    with pytest.raises(SpecError) as caught:
        parse_scenario("{}")
    assert [part.field for part in caught.value.parts] == ["schema", "cluster", "services", "objective"]
