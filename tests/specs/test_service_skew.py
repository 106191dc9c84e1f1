"""The skew of routing from a histogram of expert loads."""

from typing import Any

import pytest

from specs.errors import SpecError
from specs.load import build
from specs.service import Service

BASE: dict[str, Any] = {
    "name": "s",
    "model": "deepseek-ai/DeepSeek-V3",
    "workload": {"input_tokens": 100, "output_tokens": 10},
    "slo": {"ttft_ms": 1000, "tpot_ms": 50},
}


@pytest.mark.parametrize("skew", [0.0, 0.3, 0.7, 1.2, 2.5])
@pytest.mark.parametrize("experts", [8, 128, 256])
def test_a_power_law_gives_its_own_exponent(skew: float, experts: int) -> None:
    loads = [1000.0 * (rank + 1) ** -skew for rank in range(experts)]
    loads = loads[1::2] + loads[::2]  # in any order
    assert build(Service, {**BASE, "expert_loads": loads}).skew == pytest.approx(skew, abs=1e-6)


def test_without_a_histogram_the_exponent_is_taken() -> None:
    assert build(Service, {**BASE, "routing_skew": 0.4}).skew == 0.4


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"expert_loads": [1, 2], "routing_skew": 0.5}, "expert_loads"),
        ({"expert_loads": [0, 0]}, "expert_loads"),
        ({"expert_loads": [1]}, "expert_loads"),
        ({"expert_loads": [1, -1]}, "expert_loads"),
    ],
)
def test_bad_histograms_are_refused(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(SpecError) as caught:
        build(Service, {**BASE, **changes})
    assert field in str(caught.value.field)
