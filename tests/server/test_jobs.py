"""Plans, comparisons and predictions as jobs of a live server."""

import io
import json
import re
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from planner.server.job import ComparisonJob, JobList, PlanJob, PredictionJob
from specs.load import build
from specs.scenario import Scenario
from tests.server.live import CONFIGURATION, IMPOSSIBLE, LONG, SCENARIO, YAML, LiveServer, problem


@pytest.fixture(scope="module")
def planned(server: LiveServer) -> dict[str, Any]:
    job: dict[str, Any] = server.ask(wait_s=20).json()
    return job


def test_an_immediate_answer_is_a_job_that_stays(server: LiveServer) -> None:
    response = server.ask(wait_s=20)
    job = response.json()
    assert response.status_code == 201
    assert job["status"] == "optimal"
    assert job["finished"]
    PlanJob.model_validate_json(response.text)
    assert response.headers["location"] == f"/v1/plans/{job['id']}"
    assert server.client.get(response.headers["location"]).json() == job
    listed = server.client.get("/v1/plans?limit=1")
    JobList.model_validate_json(listed.text)
    assert [each["id"] for each in listed.json()["jobs"]] == [job["id"]]


def test_progress_leads_to_the_plan(planned: dict[str, Any]) -> None:
    history = planned["progress"]["history"]
    assert history[-1] == {name: value for name, value in planned["progress"].items() if name != "history"}
    assert [point["time_s"] for point in history] == sorted(point["time_s"] for point in history)
    last = history[-1]
    assert last["incumbent"] == pytest.approx(planned["plan"]["certificate"]["incumbent"])
    assert last["gap"] == pytest.approx(abs(last["bound"] - last["incumbent"]) / abs(last["incumbent"]))


def test_the_plan_is_that_of_the_python_door(server: LiveServer, planned: dict[str, Any]) -> None:
    from planner import plan
    from specs.load import parse_scenario

    here = json.loads(plan(parse_scenario(SCENARIO)).to_json())
    for each in (here, plan_there := dict(planned["plan"])):
        each["provenance"] = {**each["provenance"], "seconds": {}}
    assert plan_there == here


def test_json_and_yaml_ask_the_same(server: LiveServer, planned: dict[str, Any]) -> None:
    scenario = server.client.post("/v1/scenarios/validate", content=SCENARIO, headers=YAML).json()["scenario"]
    job = server.client.post("/v1/plans?wait_s=20", json=scenario).json()
    assert job["plan"]["services"] == planned["plan"]["services"]


def test_infeasible_is_an_answer(server: LiveServer) -> None:
    response = server.ask(IMPOSSIBLE, wait_s=20)
    job = response.json()
    assert (response.status_code, job["status"]) == (201, "infeasible")
    PlanJob.model_validate_json(response.text)
    assert job["plan"]["explanation"]["relaxations"]


def test_alternatives_and_what_if(server: LiveServer) -> None:
    job = server.ask(wait_s=20, alternatives=2).json()
    assert len(job["alternatives"]) == 2
    assert job["alternatives"][0]["plan"] == job["plan"]
    assert server.ask(wait_s=20, explain="what_if").json()["plan"]["explanation"]["what_if"]
    assert server.ask(wait_s=20, formulation="piecewise", explain="none").json()["status"] == "optimal"


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({"gap": 0}, "gap"),
        ({"gap": "nan"}, "gap"),
        ({"time_limit_s": 601}, "time_limit_s"),
        ({"time_limit_s": "inf"}, "time_limit_s"),
        ({"explain": "all"}, "explain"),
        ({"alternatives": 0}, "alternatives"),
        ({"alternatives": 2, "explain": "what_if"}, "explain"),
        ({"alternatives": 2, "formulation": "piecewise"}, "formulation"),
        ({"wait_s": 31}, "wait_s"),
        ({"gpa": 0.1}, "gpa"),
    ],
)
def test_options_are_checked(server: LiveServer, parameters: dict[str, Any], field: str) -> None:
    response = server.ask(**parameters)
    assert response.status_code == 422
    assert response.json()["field"] == field


def test_a_long_job_is_answered_with_202_watched_and_cancelled(server: LiveServer) -> None:
    response = server.ask(LONG, wait_s=0)
    job = response.json()
    assert response.status_code == 202
    assert job["status"] in ("queued", "running")
    queued = server.ask(LONG, wait_s=0.3).json()
    assert (queued["status"], queued["queue_position"]) == ("queued", 0)
    path = f"/v1/plans/{job['id']}"
    events: list[str] = []

    def watch() -> None:
        with httpx.stream("GET", f"{server.url}{path}/events", timeout=60.0) as stream:
            events.extend(stream.iter_lines())

    watcher = threading.Thread(target=watch)
    watcher.start()
    time.sleep(1.0)
    assert server.client.get(path).json()["progress"]["stage"]
    start = time.monotonic()
    for each in (queued, job):
        cancelled = server.client.post(f"/v1/plans/{each['id']}/cancel").json()
        assert cancelled["status"] == "cancelled"
        assert server.client.get(f"/v1/plans/{each['id']}").json() == cancelled
        assert server.client.post(f"/v1/plans/{each['id']}/cancel").json() == cancelled
    assert time.monotonic() - start < 5.0
    watcher.join(10.0)
    assert not watcher.is_alive()
    states = [json.loads(line[6:]) for line in events if line.startswith("data: ") and '"status"' in line]
    assert [state["status"] for state in states][-2:] == ["running", "cancelled"]
    assert "event: progress" in events
    assert server.ask(wait_s=20).json()["status"] == "optimal"


def test_the_events_of_a_finished_job_are_its_history(server: LiveServer, planned: dict[str, Any]) -> None:
    path = f"/v1/plans/{planned['id']}/events"
    told = server.client.get(path)
    assert told.headers["content-type"].startswith("text/event-stream")
    points = [json.loads(line[6:]) for line in told.text.splitlines() if line.startswith("data: ")]
    assert points[:-1] == planned["progress"]["history"]
    numbers = re.findall(r"^id: (\d+)$", told.text, re.MULTILINE)
    resumed = server.client.get(path, headers={"Last-Event-ID": numbers[-2]}).text
    assert resumed.count("event: progress") == 1


def test_one_key_is_one_job(server: LiveServer) -> None:
    def post(text: str = SCENARIO, gap: float = 0.001, **headers: str) -> httpx.Response:
        url = f"{server.url}/v1/plans"
        return httpx.post(url, content=text, headers={**YAML, **headers}, params={"wait_s": 20, "gap": gap})

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: post(**{"Idempotency-Key": "monday"}), range(8)))
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert {answer.status_code for answer in answers} == {201}
    again = post(f"# another comment\n{SCENARIO}", **{"Idempotency-Key": "monday"})
    assert again.json()["id"] == answers[0].json()["id"]
    other = post(gap=0.01, **{"Idempotency-Key": "monday"})
    assert (other.status_code, other.json()["field"]) == (422, "Idempotency-Key")
    assert post(**{"Idempotency-Key": "tuesday"}).json()["id"] != again.json()["id"]
    assert post(**{"Idempotency-Key": "x" * 256}).json()["field"] == "Idempotency-Key"


def test_what_only_the_planner_can_refuse_fails_with_the_field(server: LiveServer) -> None:
    text = SCENARIO.replace("input_tokens: 1024", "input_tokens: 9000000").replace("count: 4", "count: 1")
    job = server.ask(text, wait_s=20).json()
    assert (job["status"], job["error"]["status"]) == ("failed", 422)
    assert job["error"]["field"] == "services[0].workload"


def test_comparisons(server: LiveServer) -> None:
    text = SCENARIO.replace("[aggregated]", "[aggregated, prefill_decode]")
    response = server.client.post("/v1/comparisons", content=text, headers=YAML, params={"wait_s": 30})
    assert response.status_code == 201
    ComparisonJob.model_validate_json(response.text)
    job = response.json()
    assert job["status"] == "done"
    assert server.client.get(f"/v1/comparisons/{job['id']}").json() == job
    assert server.client.get(f"/v1/plans/{job['id']}").status_code == 404
    assert job["comparison"]["modes"][0]["pareto"]


def test_predictions(server: LiveServer) -> None:
    response = server.client.post("/v1/predictions", content=CONFIGURATION, headers=YAML)
    assert response.status_code == 201
    PredictionJob.model_validate_json(response.text)
    job = response.json()
    assert job["status"] == "done"
    assert job["prediction"]["tpot_ms"] > 0
    assert server.client.get(f"/v1/predictions/{job['id']}").json() == job


def test_launch_files_and_report(server: LiveServer, planned: dict[str, Any]) -> None:
    path = f"/v1/plans/{planned['id']}"
    first = server.client.get(f"{path}/files/terraform")
    assert first.status_code == 200, first.text
    assert first.headers["content-type"] == "application/zip"
    names = zipfile.ZipFile(io.BytesIO(first.content)).namelist()
    assert names == sorted(names) != []
    assert all(not name.startswith("/") and ".." not in name for name in names)
    posted = server.client.post("/v1/render?target=terraform", json=planned["plan"])
    assert posted.content == first.content
    page = server.client.get(f"{path}/report")
    assert "sandbox" in page.headers["content-security-policy"]
    assert page.text.lower().startswith("<!doctype html>")
    assert server.client.post("/v1/report", json=planned["plan"]).text == page.text
    placed = server.client.post("/v1/placement", json=planned["plan"]).json()
    assert sum(len(seat["gpus"]) for seat in placed["seats"]) == planned["plan"]["gpus_used"]["h100"]
    assert "terraform" in server.client.get("/v1/targets").json()["targets"]


def test_a_report_takes_a_comparison_of_its_scenario(server: LiveServer, planned: dict[str, Any]) -> None:
    path = f"/v1/plans/{planned['id']}/report"
    for text, status in ((SCENARIO, 200), (SCENARIO.replace("count: 4", "count: 2"), 422)):
        job = server.client.post(
            "/v1/comparisons", content=text, headers=YAML, params={"wait_s": 30, "pareto": False}
        ).json()
        answer = server.client.get(path, params={"comparison": job["id"]})
        assert answer.status_code == status, answer.text
    assert problem(answer, 422)["field"] == "comparison"


def test_files_that_cannot_be_written(server: LiveServer, planned: dict[str, Any]) -> None:
    path = f"/v1/plans/{planned['id']}/files"
    assert server.client.get(f"{path}/paper").json()["field"] == "target"
    assert problem(server.client.get(f"{path}/vllm"), 422)["field"] == "target"  # the plan is for another engine
    version = server.client.get(f"{path}/sglang", params={"engine_version": "0.0"})
    assert problem(version, 422)["field"] == "engine_version"
    impossible = server.ask(IMPOSSIBLE, wait_s=20).json()
    assert server.client.get(f"/v1/plans/{impossible['id']}/files/vllm").status_code == 409
    assert server.client.get(f"/v1/plans/{impossible['id']}/report").status_code == 409
    broken = {**planned["plan"], "gpus_used": {"h100": 3}}
    refused = server.client.post("/v1/render?target=slurm", json=broken)
    assert (refused.status_code, refused.json()["field"]) == (422, "gpus_used.h100")


def test_a_plan_may_name_no_file_of_the_server(server: LiveServer, planned: dict[str, Any]) -> None:
    plan = json.loads(json.dumps(planned["plan"]))
    plan["scenario"]["services"][0]["model"] = "/etc/passwd"
    for path in ("/v1/render?target=vllm", "/v1/report", "/v1/placement"):
        refused = server.client.post(path, json=plan)
        assert (refused.status_code, refused.json()["field"]) == (422, "scenario.services[0].model")
        assert "unknown model" in refused.json()["detail"]


def test_validation_gives_every_error_with_its_line(server: LiveServer) -> None:
    def verdict(text: str) -> dict[str, Any]:
        answer = server.client.post("/v1/scenarios/validate", content=text.encode(), headers=YAML)
        assert answer.status_code == 200
        found: dict[str, Any] = answer.json()
        return found

    good = verdict(SCENARIO)
    assert (good["valid"], good["errors"]) == (True, [])
    assert build(Scenario, good["scenario"]).services[0].name == "chat"
    bad = verdict(SCENARIO.replace("count: 4", "count: 0").replace("tpot_ms: 20", "tpot_ms: -1"))
    assert [(error["field"], error["line"]) for error in bad["errors"]] == [
        ("cluster.pools[0].count", 5),
        ("services[0].slo.tpot_ms", 12),
    ]
    assert verdict("a:\n  b: [}")["errors"][0]["line"] == 2
    assert verdict("")["valid"] is False


def test_catalogue_and_examples(server: LiveServer) -> None:
    names = server.client.get("/v1/catalog").json()
    assert "h100-sxm-80gb" in names["gpus"]
    assert server.client.get("/v1/catalog/gpus/h100").json()["id"] == "h100-sxm-80gb"
    assert server.client.get("/v1/catalog/models/meta-llama/Llama-3.1-8B").json()["id"] == "meta-llama/Llama-3.1-8B"
    assert set(server.client.get("/v1/catalog/workloads").json()) == set(names["workloads"])
    unknown = server.client.get("/v1/catalog/models//etc/passwd")
    assert (unknown.status_code, unknown.json()["field"]) == (404, "name")
    assert server.client.get("/v1/catalog/planets").status_code == 422
    examples = server.client.get("/v1/examples").json()["examples"]
    assert {"coding", "closed-loop"} <= {example["name"] for example in examples}
    assert all(example["title"] and example["text"] for example in examples)


def test_health_and_metrics(server: LiveServer, planned: dict[str, Any]) -> None:
    health = server.client.get("/healthz").json()
    assert health["status"] == "ok"
    assert health["workers"] >= 1
    text = server.client.get("/metrics").text
    assert 'cleave_jobs_total{kind="plan",status="optimal"}' in text
    assert 'cleave_http_requests_total{method="POST",route="/v1/plans",status="201"}' in text


def test_the_page_is_served(server: LiveServer) -> None:
    page = server.client.get("/")
    assert page.status_code == 200
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert server.client.get("/web/index.html").status_code == 200
    assert server.client.get("/web/../../settings.py").status_code == 404
    assert server.client.get("/web/%2e%2e/settings.py").status_code == 404
