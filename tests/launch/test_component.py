from collections import Counter

import pytest

from planner.launch.component import NAME_LENGTH, launch, longest_request
from specs import catalog
from specs.errors import SpecError
from specs.plan import Role
from specs.service import Mode
from specs.workload import DiscreteLength, MeanLength, Workload
from tests.launch.plans import MODEL, plan_of, unit, worker


def test_attention_replicas_of_a_unit_are_one_data_parallel_instance() -> None:
    attention, ffn = launch(plan_of(unit(3, 4, 8, tp=2), mode=Mode.AFD)).components
    assert (attention.role, ffn.role) == (Role.ATTENTION, Role.FFN)
    assert (attention.instances, attention.dp, attention.instance_gpus, attention.sequences) == (3, 4, 8, 32)
    assert (ffn.instances, ffn.dp, ffn.instance_gpus) == (3, 1, 8)


def test_an_instance_over_nodes_takes_the_same_of_each() -> None:
    (component,) = launch(plan_of([worker(2, 16)])).components
    assert (component.nodes, component.gpus_on_node) == (2, 8)
    (odd, _) = launch(plan_of(unit(1, 12, 8), mode=Mode.AFD)).components
    assert odd.gpus_on_node == 6


def test_an_instance_that_does_not_fill_its_nodes_evenly_is_refused() -> None:
    (odd, _) = launch(plan_of(unit(1, 11, 8), mode=Mode.AFD)).components
    with pytest.raises(SpecError, match="11 GPUs of one instance do not divide over 2 nodes"):
        _ = odd.gpus_on_node


def test_names_are_labels_that_no_other_component_has() -> None:
    long = "a" * 63
    names = [
        component.name
        for component in launch(
            plan_of([worker(1, 1, Role.PREFILL), worker(1, 2, Role.PREFILL), worker(1, 4, Role.DECODE)],
                    mode=Mode.PREFILL_DECODE, services=[long, f"{'a' * 62}b", "chat", "chat-prefill"])
        ).components
    ]  # fmt: skip
    assert "chat-prefill-1" in names
    assert [name for name, count in Counter(names).items() if count > 1] == []
    assert all(len(name) <= NAME_LENGTH and name.replace("-", "").isalnum() for name in names)


@pytest.mark.parametrize(
    ("workload", "longest"),
    [
        (Workload(input_tokens=1000, output_tokens=24), 1024),
        (Workload(input_tokens=1000, output_tokens=25), 1088),
        (Workload(input_tokens=DiscreteLength(values=(10, 500, 9000), weights=(1, 1, 0)), output_tokens=12), 512),
        (Workload(input_tokens=MeanLength(mean=1000, cv=0.5), output_tokens=8, prefix_tokens=64), 3072 + 64 - 64),
        (Workload(input_tokens=9_000_000, output_tokens=1), 40960),
    ],
)  # fmt: skip
def test_the_longest_request_has_room(workload: Workload, longest: int) -> None:
    assert longest_request(workload, catalog.model(MODEL)) == longest


def test_a_plan_without_its_scenario_is_refused() -> None:
    plan = plan_of([worker(1, 1)]).model_copy(update={"scenario": None})
    with pytest.raises(SpecError, match="a plan written by `cleave plan`") as error:
        launch(plan)
    assert error.value.field == "scenario"


def test_there_is_nothing_to_launch_without_a_plan() -> None:
    plan = plan_of([worker(1, 1)]).model_copy(update={"services": ()})
    with pytest.raises(SpecError, match="nothing to launch"):
        launch(plan)
