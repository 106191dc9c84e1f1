"""The description of the API, and a server that keeps to it whatever it is sent."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from specs.load import build
from specs.prediction import Configuration
from specs.scenario import Scenario
from tests.server.live import LiveServer

SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")
CASES = os.environ.get("CLEAVE_SCHEMATHESIS", "")
"""Examples for each operation; a number asks for every phase, which takes minutes."""
PHASES = "examples,coverage,fuzzing,stateful" if CASES else "fuzzing"
CASES = CASES or "5"
CHECKS = ",".join(
    (
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_headers_conformance",
        "response_schema_conformance",
        "unsupported_method",
        "allow_header_conformance",
        "missing_required_header",
    )
)


@pytest.fixture(scope="module")
def described(server: LiveServer) -> dict[str, Any]:
    found: dict[str, Any] = server.client.get("/openapi.json").json()
    return found


def operations(described: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def test_examples_are_those_of_the_folder_and_valid(described: dict[str, Any]) -> None:
    bodies = {name: operation.get("requestBody", {}) for name, operation in operations(described)}
    assert "coding" in bodies["POST /v1/plans"]["content"]["application/json"]["examples"]
    assert "closed-loop" in bodies["POST /v1/predictions"]["content"]["application/yaml"]["examples"]
    for name, example in described["components"]["examples"].items():
        kind = Scenario if name.startswith("scenario-") else Configuration
        value = yaml.safe_load(example["value"]) if name.endswith("-yaml") else example["value"]
        build(kind, value)
        schema = {"$ref": f"#/components/schemas/{kind.__name__}", "components": described["components"]}
        jsonschema.validate(value, schema)


def test_every_operation_is_described(described: dict[str, Any]) -> None:
    for name, operation in operations(described):
        assert operation["summary"], name
        for status, answer in operation["responses"].items():
            assert answer["description"], (name, status)
            if int(status) >= 400:
                assert list(answer["content"]) == ["application/problem+json"], (name, status)
        assert {"401", "500", "503"} <= set(operation["responses"]), name
        if "requestBody" in operation:
            assert {"400", "408", "413", "415"} <= set(operation["responses"]), name


def test_nothing_comes_from_elsewhere(server: LiveServer) -> None:
    for path in ("/docs", "/redoc"):
        assert server.client.get(path).status_code == 404


@pytest.mark.skipif(not SCHEMATHESIS.exists(), reason="schemathesis is not installed")
def test_the_server_keeps_to_its_description(server: LiveServer, tmp_path: Path) -> None:
    command = [str(SCHEMATHESIS), "run", f"{server.url}/openapi.json", "--phases", PHASES, "--max-examples", CASES]
    options = ["--checks", CHECKS, "--seed", "1", "--suppress-health-check", "all", "--request-timeout", "60"]
    run = subprocess.run([*command, *options], capture_output=True, text=True, cwd=tmp_path, timeout=1800)
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]
    print(run.stdout[run.stdout.find("Test cases:") :])
    assert server.client.get("/healthz").json()["status"] == "ok"
