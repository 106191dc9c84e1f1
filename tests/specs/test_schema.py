import json
import subprocess
import sys
from typing import Any

import jsonschema
import pytest

from specs.load import parse_scenario
from specs.plan import Plan
from specs.schema import FOLDER, schemas

SCENARIO: dict[str, Any] = {
    "schema": "cleave.scenario/1",
    "cluster": {"pools": [{"name": "b200", "gpu": "b200", "count": 128}]},
    "services": [
        {
            "name": "coding",
            "model": "deepseek-ai/DeepSeek-V3.2",
            "workload": {"input_tokens": 4000, "output_tokens": {"mean": 1000, "cv": 1}},
            "slo": {"ttft_ms": 100, "tpot_ms": 15, "statistic": "p99"},
        }
    ],
    "objective": {"maximize": "throughput"},
}
PLAN: dict[str, Any] = {
    "schema": "cleave.plan/1",
    "status": "infeasible",
    "objective": {"maximize": "throughput"},
    "certificate": {},
    "provenance": {"kernels": "analytic"},
}


@pytest.mark.parametrize("name", ["scenario", "plan", "comparison", "alternatives", "configuration", "prediction"])
def test_the_published_schemas_are_current(name: str) -> None:
    assert json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8")) == schemas()[name], (
        "run `python -m specs.schema`"
    )


@pytest.mark.parametrize("name", ["scenario", "plan", "comparison", "alternatives", "configuration", "prediction"])
def test_the_schemas_are_valid(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(schemas()[name])


def test_the_schemas_accept_what_the_models_accept_and_write() -> None:
    jsonschema.validate(SCENARIO, schemas()["scenario"])
    jsonschema.validate(json.loads(parse_scenario(json.dumps(SCENARIO)).to_json()), schemas()["scenario"])
    jsonschema.validate(PLAN, schemas()["plan"])
    jsonschema.validate(json.loads(Plan.model_validate(PLAN).to_json()), schemas()["plan"])


@pytest.mark.parametrize(
    "change",
    [
        {"schema": "cleave.scenario/2"},
        {"extra": 1},
        {"services": []},
        {"cluster": {"pools": [{"name": "b200", "gpu": "b200", "count": 0}]}},
        {"cluster": {"pools": [{"name": "B200", "gpu": "b200", "count": 8}]}},
    ],
)
def test_the_schemas_refuse_what_the_models_refuse(change: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**SCENARIO, **change}, schemas()["scenario"])


def test_the_example_of_the_page_loads() -> None:
    page = (FOLDER.parent / "scenario.md").read_text(encoding="utf-8")
    example = page.split("```yaml\n")[1].split("```")[0]
    assert parse_scenario(example).services[0].name == "coding"


def test_the_default_that_depends_on_another_field_is_not_published() -> None:
    assert "default" not in schemas()["scenario"]["$defs"]["Service"]["properties"]["kv_cache_dtype"]


def test_the_contracts_import_no_solver_and_no_arrays() -> None:
    heavy = ["numpy", "scipy", "pyomo", "highspy", "jsonschema"]
    code = f"import sys, specs.load, specs.catalog; sys.exit(bool(set({heavy}) & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=FOLDER.parents[1]).returncode == 0
