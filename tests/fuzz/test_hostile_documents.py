"""Hostile scenarios and plans: an answer or one `SpecError`, never a traceback, never a file outside the folder.

`CLEAVE_FUZZ=10000` runs that many of each kind; the suite runs fewer of the same sequence.
"""

import json
import os
import random
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from planner import api
from planner.render import Target, render
from planner.render.folder import write_folder
from planner.report import report_html
from specs.errors import SpecError
from specs.load import parse_plan, parse_scenario
from specs.plan import Plan, Role
from specs.service import Mode
from tests.fuzz.documents import hostile
from tests.launch.plans import plan_of, unit, worker

CASES = int(os.environ.get("CLEAVE_FUZZ", "600"))
PLANNED_SHARE = 0.02
"""Share of the scenarios that are read without complaint which are planned as well."""
LIMIT_S = 5.0
SLACK_S = 25.0
"""Beyond the time limit, on a machine that other tests keep busy."""

SCENARIO: dict[str, Any] = {
    "schema": "cleave.scenario/1",
    "cluster": {
        "pools": [
            {"name": "h100", "gpu": "h100-sxm-80gb", "count": 8, "cost_per_gpu_hour": 2.5},
            {"name": "h20", "gpu": "h20", "count": 16, "gpus_per_node": 8, "scale_out_gbit_per_s": 400},
        ]
    },
    "services": [
        {
            "name": "chat",
            "model": "Qwen/Qwen3-30B-A3B",
            "precision": "fp8",
            "engine": "vllm",
            "kernels": "analytic",
            "workload": {
                "input_tokens": {"values": [500, 1000], "weights": [1, 2]},
                "output_tokens": 200,
                "prefix_tokens": 64,
                "arrival": {"process": "poisson"},
            },
            "slo": {"ttft_ms": 500, "tpot_ms": 50, "statistic": "p90"},
            "modes": ["aggregated", "prefill_decode"],
            "demand_rps": 50,
            "limits": {"tp": [1, 2, 4], "max_gpus_per_replica": 8, "pools": ["h100", "h20"]},
        }
    ],
    "objective": {"maximize": "throughput"},
}


def text_of(document: dict[str, Any], generator: random.Random) -> str:
    """JSON or YAML, some of it damaged."""
    text = json.dumps(document) if generator.random() < 0.5 else yaml.dump(document, allow_unicode=True)
    if generator.random() < 0.1:
        place = generator.randrange(len(text))
        text = (
            text[:place]
            + generator.choice(["", "\t", "{", "]", "&a *a", "\x00", "!!python/name:os.system "])
            + (text[place + generator.randrange(20) :])
        )
    return text


def test_hostile_scenarios_are_answered_or_refused() -> None:
    generator = random.Random(20260528)
    read = planned = 0
    for _ in range(CASES):
        text = text_of(hostile(SCENARIO, generator), generator)
        try:
            scenario = parse_scenario(text)
        except SpecError:
            continue
        read += 1
        if generator.random() > PLANNED_SHARE and planned:
            continue
        planned += 1
        started = time.perf_counter()
        try:
            plan = api.plan(scenario, time_limit_s=LIMIT_S, gap=0.05, explain=False)
        except SpecError:
            continue
        assert time.perf_counter() - started < LIMIT_S + SLACK_S, text
        assert plan.status
    assert read > CASES / 50, "too few variants are read to say anything of planning"


def plans() -> list[Plan]:
    """Plans of every mode, on one node and over several."""
    afd = unit(1, 4, 4, tp=1)
    return [
        plan_of([worker(2, 4), worker(1, 8)], services=["chat", "coding"]),
        plan_of([worker(2, 4, Role.PREFILL), worker(1, 16, Role.DECODE)], mode=Mode.PREFILL_DECODE, engine="sglang"),
        plan_of([worker(1, 2, Role.PREFILL), worker(1, 2, Role.DECODE)], mode=Mode.PREFILL_DECODE, engine="trtllm"),
        plan_of(afd, mode=Mode.AFD, phase="decode"),
    ]


def test_hostile_plans_are_rendered_or_refused(tmp_path: Path) -> None:
    generator = random.Random(20260529)
    documents = [json.loads(plan.to_json()) for plan in plans()]
    folder = tmp_path / "inside" / "out"
    folder.parent.mkdir()
    rendered = 0
    for _ in range(CASES):
        document = hostile(generator.choice(documents), generator)
        try:
            plan = parse_plan(text_of(document, generator))
        except SpecError:
            continue
        for target in generator.sample(list(Target), 3):
            try:
                files = render(plan, target)
            except SpecError:
                continue
            rendered += 1
            if rendered % 20 == 0:
                write_folder(folder, files, force=True)
        try:
            assert report_html(plan).startswith("<!DOCTYPE html>")
        except SpecError:
            continue
    assert rendered > CASES / 50, "too few variants are rendered to say anything of rendering"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inside"]
    assert [path.name for path in (tmp_path / "inside").iterdir()] == ["out"]
    for path in folder.rglob("*"):
        assert path.resolve().is_relative_to(folder.resolve())


@pytest.mark.parametrize("name", ["../owned", "a/b", "a b", "A", "-a", "a-", "", "a" * 64, "é"])
def test_a_name_that_is_no_label_is_refused(name: str) -> None:
    for place in (SCENARIO["services"][0], SCENARIO["cluster"]["pools"][0]):
        renamed = json.loads(json.dumps(SCENARIO).replace(json.dumps(place["name"]), json.dumps(name)))
        with pytest.raises(SpecError, match=r"name|pools"):
            parse_scenario(json.dumps(renamed))
