"""Every row of every family on one small instance, written out."""

from math import inf, nan

import numpy as np
import pytest

from formulations import columns, links, piecewise, seam
from formulations.table import Role
from tests.formulations.instances import problem, table
from tests.formulations.test_piecewise import PREFILL, decode_curve

ROWS = [
    {"mode": 0, "rate": 4.0, "items": {(0, 3): 1}, "cost": 3.0, "traffic": (0.1,), "residency": 2.0},
    {"mode": 0, "rate": 9.0, "items": {(0, 10): 1}, "cost": 9.0, "traffic": (0.1,), "residency": 2.0},
    {"mode": 1, "role": int(Role.PREFILL), "rate": 6.0, "items": {(0, 2): 1}, "cost": 2.0, "residency": 1.0},
    {"mode": 1, "role": int(Role.DECODE), "rate": 5.0, "items": {(0, 2): 1}, "cost": 2.0, "residency": 3.0},
    {"mode": 1, "role": int(Role.DECODE), "rate": 7.0, "items": {(0, 3): 1}, "traffic": (0.4,), "residency": 3.0},
    {"mode": 1, "role": int(Role.PREFILL), "level": 1, "rate": 3.0, "items": {(0, 2): 1}, "cost": 2.0},
    {"mode": 1, "role": int(Role.DECODE), "level": 1, "rate": 8.0, "items": {(0, 2): 1}, "cost": 2.0},
    {"mode": 1, "role": int(Role.DECODE), "level": 2, "rate": 8.0, "items": {(0, 2): 1}, "cost": 2.0},
]
"""Rows 0-1 serve whole requests, 2-6 are two levels of a split mode; row 7 has no prefill beside it and is left out."""


def listing(model, family: str) -> list[str]:
    """Rows of one family as text, in the order of the model."""
    form = seam.extract(model)
    rows: list[list[str]] = [[] for _ in form.constraints]
    for column, variable in enumerate(form.variables):
        for entry in range(form.start[column], form.start[column + 1]):
            rows[form.index[entry]].append(f"{form.value[entry]:+.6g} {variable.name}")
    found = []
    for row, constraint in enumerate(form.constraints):
        if constraint.parent_component().name == family:
            low, high = form.row_lower[row], form.row_upper[row]
            bound = f"= {low:g}" if low == high else f"<= {high:g}" if low == -inf else f">= {low:g}"
            found.append(f"{constraint.name}: {' '.join(rows[row])} {bound}")
    return found


def build(**given):
    base = {"pool_gpus": [12], "pool_domain": [5], "demand_rps": [11.0], "fabric_gbyte_per_s": [2.0]}
    return columns.build(problem(**{**base, "in_flight_cap": [40.0], **given}), table(ROWS)).assembly.model


def test_inventory():
    assert listing(build(), "cInventory") == [
        "cInventory[0,0]: +3 vN[0,0] +10 vN[1,0] +2 vN[2,0] +2 vN[3,0] +3 vN[4,0] +2 vN[5,0] +2 vN[6,0] <= 12"
    ]


def test_packing():
    model = build()
    # Two full domains of 5 cut as {3, 2} or {2, 2}; a rest of 2 as {2}; item types are sorted 2, 3, 10.
    assert listing(model, "cPackDomains") == [
        "cPackDomains[0,0]: +2 vN[1,0] +1 vFullPattern[0,0,0] +1 vFullPattern[0,1,0] <= 2"
    ]
    assert listing(model, "cPackRemainder") == ["cPackRemainder[0,0]: +1 vRestPattern[0,0,0] <= 1"]
    assert listing(model, "cPackItems") == [
        "cPackItems[0,0]: +1 vN[2,0] +1 vN[3,0] +1 vN[5,0] +1 vN[6,0] -1 vFullPattern[0,0,0] "
        "-2 vFullPattern[0,1,0] -1 vRestPattern[0,0,0] <= 0",
        "cPackItems[1,0]: +1 vN[0,0] +1 vN[4,0] -1 vFullPattern[0,0,0] <= 0",
    ]
    chain = table([row for row in ROWS if (0, 3) not in row["items"] and (0, 10) not in row["items"]])
    assert listing(columns.build(problem(), chain).assembly.model, "cPackItems") == []


def test_rate_matching():
    assert listing(build(), "cRate") == [
        "cRate[0,0,0]: +4 vN[0,0] +9 vN[1,0] -1 vRate[0,0] >= 0",
        "cRate[1,1,0]: +6 vN[2,0] -1 vRate[1,0] >= 0",
        "cRate[1,2,0]: +5 vN[3,0] +7 vN[4,0] -1 vRate[1,0] >= 0",
        "cRate[2,1,0]: +3 vN[5,0] -1 vRate[2,0] >= 0",
        "cRate[2,2,0]: +8 vN[6,0] -1 vRate[2,0] >= 0",
    ]


def test_mode():
    model = build(demand_rps=[nan])
    assert listing(model, "cMode") == ["cMode[0]: +1 vY[0,0] +1 vY[0,1] = 1"]
    assert listing(build(split=[True]), "cMode") == ["cMode[0]: +1 vY[0,0] +1 vY[0,1] >= 1"]
    # On 12 GPUs: four of 4/s; level 0 three prefill (18) and three decode on 6 GPUs (15), level 1 twelve.
    assert listing(model, "cModeRate") == [
        "cModeRate[0,0,0]: +1 vRate[0,0] -16 vY[0,0] <= 0",
        "cModeRate[0,1,0]: +1 vRate[1,0] +1 vRate[2,0] -15 vY[0,1] <= 0",
    ]
    assert listing(model, "cServed") == [
        "cServed[0,0,0]: +1 vN[0,0] +1 vN[1,0] -1 vW[0] >= 0",
        "cServed[1,1,0]: +1 vN[2,0] -1 vW[1] >= 0",
        "cServed[1,2,0]: +1 vN[3,0] +1 vN[4,0] -1 vW[1] >= 0",
        "cServed[2,1,0]: +1 vN[5,0] -1 vW[2] >= 0",
        "cServed[2,2,0]: +1 vN[6,0] -1 vW[2] >= 0",
    ]


def test_level():
    model = build()
    assert listing(model, "cLevelRate") == [
        "cLevelRate[0,0]: +1 vRate[0,0] -11 vW[0] <= 0",
        "cLevelRate[1,0]: +1 vRate[1,0] -11 vW[1] <= 0",
        "cLevelRate[2,0]: +1 vRate[2,0] -11 vW[2] <= 0",
    ]
    assert listing(model, "cLevel") == [
        "cLevel[0,0]: -1 vY[0,0] +1 vW[0] = 0",
        "cLevel[0,1]: -1 vY[0,1] +1 vW[1] +1 vW[2] = 0",
    ]
    assert listing(model, "cLevelMode") == []
    split = build(split=[True])
    assert listing(split, "cLevel")[1] == "cLevel[0,1]: -1 vY[0,1] +1 vW[1] +1 vW[2] >= 0"
    assert listing(split, "cLevelMode") == [
        "cLevelMode[0]: -1 vY[0,0] +1 vW[0] <= 0",
        "cLevelMode[1]: -1 vY[0,1] +1 vW[1] <= 0",
        "cLevelMode[2]: -1 vY[0,1] +1 vW[2] <= 0",
    ]


def test_demand():
    served = "cDemand[0,0]: +1 vRate[0,0] +1 vRate[1,0] +1 vRate[2,0]"
    assert listing(build(), "cDemand") == [f"{served} <= 11"]
    assert listing(build(sense="minimize"), "cDemand") == [f"{served} >= 11"]
    assert listing(build(demand_rps=[nan]), "cDemand") == []


def test_flow():
    model = build()
    assert listing(model, "cFlowCapacity") == [
        "cFlowCapacity[0,0]: +5 vN[3,0] -1 vFlow[0,0] >= 0",
        "cFlowCapacity[1,0]: +7 vN[4,0] -1 vFlow[1,0] >= 0",
    ]
    assert listing(model, "cFlowBalance") == ["cFlowBalance[1,2,0]: -1 vRate[1,0] +1 vFlow[0,0] +1 vFlow[1,0] = 0"]
    assert listing(build(fabric_gbyte_per_s=[inf]), "cFlowBalance") == []


def test_network():
    assert listing(build(), "cFabric") == ["cFabric[0,0]: +0.1 vRate[0,0] +0.4 vFlow[1,0] <= 2"]
    assert listing(build(fabric_gbyte_per_s=[inf]), "cFabric") == []


def test_in_flight():
    assert listing(build(), "cInFlight") == [
        "cInFlight[0,0]: +2 vRate[0,0] +1 vRate[1,0] +3 vFlow[0,0] +3 vFlow[1,0] <= 40"
    ]
    assert listing(build(in_flight_cap=[nan]), "cInFlight") == []


def test_objective():
    form = seam.extract(build(weight=[2.0], output_tokens=[100.0]))
    priced = {form.variables[column].name: cost for column, cost in enumerate(form.cost) if cost}
    assert form.sense == "maximize"
    assert priced == {"vRate[0,0]": 200, "vRate[1,0]": 200, "vRate[2,0]": 200}
    form = seam.extract(build(sense="minimize"))
    assert form.sense == "minimize"
    assert [form.cost[column] for column in range(7)] == [row.get("cost", 0) for row in ROWS[:7]]


def test_segments():
    model = piecewise.build(problem(), PREFILL, decode_curve()).assembly.model
    assert listing(model, "cStep") == [
        "cStep[0,0]: -1 vN[1,0] +0.01 vSteps[1,0] +0.0005 vTokens[1,0] <= 0",
        "cStep[1,0]: -1 vN[2,0] +0.002 vSteps[2,0] +0.001 vTokens[2,0] <= 0",
    ]
    assert listing(model, "cBatchLow") == [
        "cBatchLow[1,0]: +1 vSteps[1,0] -1 vTokens[1,0] <= 0",
        "cBatchLow[2,0]: +16 vSteps[2,0] -1 vTokens[2,0] <= 0",
    ]
    assert listing(model, "cBatchHigh") == [
        "cBatchHigh[1,0]: -16 vSteps[1,0] +1 vTokens[1,0] <= 0",
        "cBatchHigh[2,0]: -20.5 vSteps[2,0] +1 vTokens[2,0] <= 0",
    ]
    assert listing(model, "cRate")[1] == "cRate[0,2,0]: -1 vRate[0,0] +0.01 vTokens[1,0] +0.01 vTokens[2,0] >= 0"


FREE = {"demand_rps": [nan], "fabric_gbyte_per_s": [inf], "in_flight_cap": [nan]}


@pytest.mark.parametrize(
    ("given", "value"),
    [
        # u units of 10 on 2 u of the two domains, the rest cut {3, 2}: whole requests get 9 u + 4 (2 - 2 u) = 8 + u,
        # the 3 - 2 u places of 2 serve (3 - 2 u) / (1/6 + 1/5) through both phases, and the link bounds allow
        # (8 + u) / 16 + pd / 15 = 1. Both hold at the u below; the value is 15.5 + u / 16.
        (FREE, 15.5 + (3 / (1 / 6 + 1 / 5) - 7.5) / (2 / (1 / 6 + 1 / 5) - 15 / 16) / 16),
        # Row 4 decodes for nothing, and 4/6 of a prefill replica would do. As D is the demand, w is 1 and so is the
        # replica: the relaxation is the integer optimum.
        ({**FREE, "sense": "minimize", "demand_rps": [4.0]}, 2.0),
    ],
)
def test_relaxation_with_patterns(given, value):
    assert seam.relax(seam.extract(build(**given))).incumbent == pytest.approx(value)


def test_relaxation_of_the_joint_ttft_case():
    """Both levels reach 36 in whole replicas (4 + 4, 6 + 2), and the relaxation knows it."""
    rows = [
        {"mode": 1, "role": role, "level": level, "rate": rate, "items": {(0, 8): 1}}
        for level, role, rate in [(0, 1, 10.0), (0, 2, 9.0), (1, 1, 6.0), (1, 2, 20.0)]
    ]
    form = seam.extract(columns.build(problem(), table(rows)).assembly.model)
    assert seam.relax(form).incumbent == pytest.approx(36)


def test_relaxation_sees_the_packing():
    unit = table([{"rate": 1.0, "items": {(0, 48): 1}}])
    form = seam.extract(columns.build(problem(pool_gpus=[144], pool_domain=[72]), unit).assembly.model)
    assert seam.relax(form).incumbent == pytest.approx(2)


def test_relaxation_over_two_pools():
    """Prefill on pool 0 (three fit 30 GPUs: 30/s), decode on pool 1 (20 GPUs: 35/s): D is the lesser."""
    rows = [
        {"mode": 1, "role": 1, "rate": 10.0, "items": {(0, 8): 1}},
        {"mode": 1, "role": 2, "rate": 7.0, "items": {(1, 4): 1}},
    ]
    made = problem(pools=("a", "b"), pool_gpus=[30, 20], pool_domain=[8, 8])
    built = columns.build(made, table(rows, 2))
    assert built.bounds.path == pytest.approx([30.0], rel=1e-5)
    assert seam.relax(seam.extract(built.assembly.model)).incumbent == pytest.approx(30.0)


def test_link_bounds_are_ordered():
    """Whole replicas within the relaxation; the closed form of one pool is the block program's optimum."""
    built = columns.build(problem(pool_gpus=[45], pool_domain=[5]), table(ROWS))
    every = np.arange(len(built.assembly.paths))
    program = links._block_program(built.assembly, every)
    # 45 GPUs: 4/3 per GPU; 1 / (2/6 + 2/5); 1 / (2/3 + 2/8).
    assert program == pytest.approx([60, 45 / (2 / 6 + 2 / 5), 45 / (2 / 3 + 2 / 8)])
    assert links._one_pool(built.assembly, every, 0) == pytest.approx(program)
    # 15 of 3; 10 prefill on 20 and 60/s on 25 (11 of 2 and one of 3); 16 prefill on 32 and 6 decode on 12.
    assert built.bounds.path == pytest.approx([60, 60, 48])
    assert np.all(built.bounds.path <= program * (1 + 1e-9))
