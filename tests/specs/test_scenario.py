import math
from typing import Any

import pytest
from pydantic import ValidationError

from specs import catalog
from specs.errors import SpecError
from specs.model import Precision
from specs.objective import Objective
from specs.scenario import Pool, Scenario, resolve_pool
from specs.service import Mode, Service, Statistic
from specs.workload import Arrival, DiscreteLength, MeanLength, Workload, cv_tokens, mean_tokens, resolve_workload

SERVICE: dict[str, Any] = {
    "name": "coding",
    "model": "deepseek-ai/DeepSeek-V3.2",
    "workload": {"input_tokens": 4000, "output_tokens": 1000},
    "slo": {"ttft_ms": 100, "tpot_ms": 15},
}


def service(**changes: object) -> Service:
    return Service.model_validate({**SERVICE, **changes})


def scenario(services: list[dict[str, Any]], objective: dict[str, str]) -> Scenario:
    return Scenario.model_validate(
        {
            "schema": "cleave.scenario/1",
            "cluster": {"pools": [{"name": "b200", "gpu": "b200", "count": 16}]},
            "services": services,
            "objective": objective,
        }
    )


def test_the_defaults_are_those_of_the_contract() -> None:
    found = service()
    assert found.modes == tuple(Mode)
    assert (found.weight, found.demand_rps, found.routing_skew, found.split) == (1.0, None, 0.0, False)
    assert found.slo.statistic is Statistic.MEAN
    assert isinstance(found.workload, Workload)
    assert found.workload.prefix_tokens == 0
    assert found.workload.prefix_sharing == "none"
    assert found.workload.prefix_at == ("prefill", "decode")
    assert found.workload.arrival == Arrival()


@pytest.mark.parametrize(
    ("precision", "kv"), [("fp8", "fp8"), ("fp4", "fp8"), ("bf16", "bf16"), ("int8", "bf16"), (None, "fp8")]
)
def test_the_kv_cache_follows_the_precision_unless_given(precision: str | None, kv: str) -> None:
    given = {} if precision is None else {"precision": precision}
    assert service(**given).kv_cache_dtype is Precision(kv)
    assert service(**given, kv_cache_dtype="bf16").kv_cache_dtype is Precision.BF16


def test_models_are_frozen_and_know_no_other_fields() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        service().name = "other"  # type: ignore[misc]
    with pytest.raises(ValidationError, match="Extra inputs"):
        service(wieght=2)


@pytest.mark.parametrize("value", [0, -1, True, "8", 1.5, math.nan, math.inf, None, 10**400, 1_000_001])
def test_a_count_is_a_positive_bounded_whole_number(value: object) -> None:
    with pytest.raises(ValidationError):
        Pool.model_validate({"name": "a", "gpu": "h200", "count": value})


def test_a_whole_float_counts() -> None:
    assert Pool.model_validate({"name": "a", "gpu": "h200", "count": 16.0}).count == 16


@pytest.mark.parametrize("name", ["", "A", "a_b", "-a", "a-", "a" * 64, "a.b", "a/b", "a\n"])
def test_a_name_must_serve_as_a_file_and_kubernetes_name(name: str) -> None:
    with pytest.raises(ValidationError):
        service(name=name)


def test_lengths_are_numbers_or_distributions() -> None:
    lengths = Workload.model_validate(
        {
            "input_tokens": {"mean": 4000.5, "cv": 0.5},
            "output_tokens": {"values": [100, 300], "weights": [3, 1]},
            "prefix_tokens": 7,
        }
    )
    assert isinstance(lengths.input_tokens, MeanLength)
    assert isinstance(lengths.output_tokens, DiscreteLength)
    assert (lengths.mean_input_tokens, lengths.mean_output_tokens, lengths.mean_prefix_tokens) == (4000.5, 150.0, 7.0)
    # Four equally likely lengths 100, 100, 100, 300: variance 7500.
    assert cv_tokens(lengths.output_tokens) == pytest.approx(math.sqrt(7500) / 150)
    assert (mean_tokens(7), cv_tokens(7)) == (7.0, 0.0)


@pytest.mark.parametrize(
    "length",
    [
        0,
        {"mean": 0, "cv": 1},
        {"mean": 5, "cv": -1},
        {"mean": 5},
        {"values": [1, 2], "weights": [1]},
        {"values": [1], "weights": [0]},
        {"values": [0], "weights": [1]},
        {"values": [], "weights": []},
        "long",
        None,
        [1],
    ],
)
def test_a_length_that_means_nothing_is_refused(length: object) -> None:
    with pytest.raises(ValidationError):
        Workload.model_validate({"input_tokens": length, "output_tokens": 10})


@pytest.mark.parametrize(
    ("arrival", "field"),
    [
        ({"process": "gamma"}, "cv"),
        ({"process": "closed_loop"}, "concurrency"),
        ({"process": "poisson", "cv": 2}, "cv"),
        ({"process": "gamma", "cv": 2, "concurrency": 8}, "concurrency"),
    ],
)
def test_an_arrival_process_has_its_own_parameters(arrival: dict[str, object], field: str) -> None:
    with pytest.raises(ValidationError, match=field):
        Arrival.model_validate(arrival)


@pytest.mark.parametrize(
    ("phase", "slo", "accepted"),
    [
        ("full", {"ttft_ms": 1}, False),
        ("full", {"tpot_ms": 1}, False),
        ("prefill", {"ttft_ms": 1}, True),
        ("prefill", {"tpot_ms": 1}, False),
        ("decode", {"tpot_ms": 1}, True),
        ("decode", {"ttft_ms": 1}, False),
    ],
)
def test_a_phase_needs_the_slo_of_what_it_computes(phase: str, slo: dict[str, float], accepted: bool) -> None:
    if accepted:
        service(phase=phase, slo=slo)
    else:
        with pytest.raises(ValidationError, match="is required by phase"):
            service(phase=phase, slo=slo)


def test_an_objective_is_exactly_one() -> None:
    assert Objective(maximize="throughput").quantity == "throughput"
    assert Objective(minimize="cost").quantity == "cost"
    assert not Objective(minimize="gpus").maximizing
    for wrong in ({}, {"maximize": "throughput", "minimize": "cost"}, {"maximize": "cost"}):
        with pytest.raises(ValidationError):
            Objective.model_validate(wrong)


def test_minimising_needs_the_demand_of_every_service() -> None:
    other = {**SERVICE, "name": "chat", "demand_rps": 3}
    with pytest.raises(ValidationError, match=r"services\[1\]\.demand_rps.*'coding'"):
        scenario([other, SERVICE], {"minimize": "cost"})
    scenario([other], {"minimize": "cost"})
    scenario([SERVICE], {"maximize": "throughput"})


def test_names_are_unique_and_limits_name_pools_of_the_cluster() -> None:
    with pytest.raises(ValidationError, match=r"services\[1\]\.name.*taken"):
        scenario([SERVICE, SERVICE], {"maximize": "throughput"})
    with pytest.raises(ValidationError, match="unknown pool 'h20'; the cluster has b200"):
        scenario([{**SERVICE, "limits": {"pools": ["h20"]}}], {"maximize": "throughput"})


def test_a_scenario_survives_its_own_json() -> None:
    found = scenario([{**SERVICE, "limits": {"tp": [1, 8]}}], {"maximize": "throughput"})
    assert Scenario.model_validate_json(found.to_json()) == found


def test_a_pool_takes_from_the_catalogue_what_it_leaves_out() -> None:
    gpu = catalog.gpu("h200")
    found = resolve_pool(Pool(name="a", gpu="h200", count=16))
    assert found.gpu == gpu
    assert (found.gpus_per_node, found.scale_up_domain, found.nics_per_node, found.nodes) == (8, 8, 8, 2)
    assert found.scale_up_gbyte_per_s == gpu.scale_up_gbyte_per_s
    assert found.scale_out_latency_us == gpu.scale_out_latency_us
    assert (found.power_w_per_gpu, found.cost_per_gpu_hour) == (gpu.power_w, gpu.cost_per_gpu_hour)
    assert resolve_pool(Pool(name="a", gpu="h200", count=16, scale_out_latency_us=0.0)).scale_out_latency_us == 0.0


def test_a_pool_smaller_than_a_node_is_one_node() -> None:
    found = resolve_pool(Pool(name="a", gpu="h200", count=3))
    assert (found.gpus_per_node, found.scale_up_domain, found.nodes) == (3, 3, 1)


def test_the_domain_follows_a_node_of_another_size() -> None:
    assert resolve_pool(Pool(name="a", gpu="h200", count=16, gpus_per_node=4)).scale_up_domain == 4
    assert resolve_pool(Pool(name="a", gpu="h200", count=16, gpus_per_node=4, scale_up_domain=8)).scale_up_domain == 8


@pytest.mark.parametrize(
    ("pool", "field", "accepted"),
    [
        ({"gpu": "h200", "count": 12}, "count", "8 or 16"),
        ({"gpu": "h200", "count": 16, "scale_up_domain": 12}, "scale_up_domain", "gpus_per_node = 8"),
        ({"gpu": "gb200-nvl72-186gb", "count": 72, "gpus_per_node": 5}, "gpus_per_node", "divisor"),
        ({"gpu": "h2000", "count": 8}, "gpu", "h200"),
    ],
)
def test_contradictory_units_say_what_is_accepted(pool: dict[str, Any], field: str, accepted: str) -> None:
    with pytest.raises(SpecError, match=accepted) as caught:
        resolve_pool(Pool(name="a", **pool))
    assert caught.value.field == field


def test_a_named_workload_is_that_of_the_catalogue() -> None:
    found = resolve_workload("chat")
    assert (found.prefix_tokens, found.input_tokens, found.output_tokens) == (4096, 512, 256)
    assert resolve_workload(found) is found
