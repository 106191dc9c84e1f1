"""Whatever goes wrong with a request is a problem (RFC 9457)."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from fastapi import FastAPI

from planner.server import desk as desk_module
from planner.server.app import create_app
from planner.server.database import SqliteDatabase, StoreError
from planner.server.record import new_id
from planner.server.settings import Settings
from tests.server.live import LONG, SCENARIO, YAML, LiveServer, problem

TOKEN = "correct-horse"


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server with a token and small limits."""
    store = f"sqlite:///{tmp_path_factory.mktemp('strict')}/jobs.sqlite3"
    options = ("--workers", "1", "--max-queued", "2", "--max-scenario-bytes", "2000", "--max-requests", "6")
    with LiveServer(store, *options, token=TOKEN) as live:
        yield live


def post(server: LiveServer, content: str | bytes, kind: str = "application/json", **headers: str) -> httpx.Response:
    return server.client.post("/v1/plans", content=content, headers={"Content-Type": kind, **headers})


def test_unknown_paths_methods_and_jobs(server: LiveServer) -> None:
    problem(server.client.get("/v1/planets"), 404)
    problem(server.client.get("/v1/plans/01m7zgbaybxx4nrh1fwptx6r6z"), 404)
    problem(server.client.post("/v1/plans/nothing/cancel"), 404)
    problem(server.client.get("/v1/plans/nothing/events"), 404)
    problem(server.client.get("/v1/plans/nothing/files/vllm"), 404)
    refused = server.client.delete("/v1/plans/nothing")
    problem(refused, 405)
    assert refused.headers["allow"] == "GET"


def test_head_is_answered_where_probes_ask(server: LiveServer) -> None:
    for path in ("/", "/healthz"):
        answer = server.client.head(path)
        assert (answer.status_code, answer.content) == (200, b"")


def test_job_ids_are_looked_up_only_where_they_can_be_some(server: LiveServer) -> None:
    for name in ("%00", "x" * 26 + "%00", "01M7ZGBAYBXX4NRH1FWPTX6R6Z", "01m7zgbaybxx4nrh1fwptx6r6z%0a", "%C3%A9" * 26):
        problem(server.client.get(f"/v1/plans/{name}"), 404)


def test_methods_of_a_clients_own_have_no_counter(server: LiveServer) -> None:
    server.client.request("BREW", "/v1/plans")
    text = server.client.get("/metrics").text
    assert "BREW" not in text
    assert 'method="other"' in text


def test_bodies_that_are_no_documents(server: LiveServer) -> None:
    assert problem(post(server, '{"schema":\n 1, "x": }'), 400)["line"] == 2
    assert problem(post(server, b'{"a": "\xff"}'), 400)["line"] == 1
    assert problem(post(server, SCENARIO), 400)["line"] == 1
    assert problem(post(server, SCENARIO, "text/html"), 415)["field"] == "Content-Type"
    assert problem(post(server, SCENARIO, ""), 415)["field"] == "Content-Type"
    assert problem(post(server, SCENARIO, "application/yaml; charset=latin-1"), 415)["field"] == "Content-Type"
    packed = post(server, b"\x1f\x8b", "application/yaml", **{"Content-Encoding": "gzip"})
    assert problem(packed, 415)["field"] == "Content-Encoding"


@pytest.mark.parametrize("text", ["", "[]", "null", "42", '"text"', "{}", "[" * 5000, "1" * 5000, '{"schema": NaN}'])
def test_documents_of_another_kind(server: LiveServer, text: str) -> None:
    for kind in ("application/json", "application/yaml"):
        response = post(server, text, kind)
        problem(response, 400 if response.status_code == 400 and kind.endswith("json") else 422)


def test_errors_name_field_and_line(server: LiveServer) -> None:
    one = problem(post(server, SCENARIO.replace("count: 4", "count: four"), "application/yaml"), 422)
    assert (one["field"], one["line"]) == ("cluster.pools[0].count", 5)
    assert "errors" not in one
    text = SCENARIO.replace("count: 4", "count: four").replace("tpot_ms: 20", "tpot: 20")
    two = problem(post(server, text, "application/yaml"), 422)
    assert [(error["field"], error["line"]) for error in two["errors"]] == [
        ("cluster.pools[0].count", 5),
        ("services[0].slo.tpot", 12),
    ]
    assert "did you mean tpot_ms?" in two["errors"][1]["detail"]


def test_models_are_those_of_the_catalogue(server: LiveServer, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    for name in ("/etc/passwd", "../config.json", str(tmp_path), str(tmp_path / "config.json"), "'~'", "."):
        text = SCENARIO.replace("meta-llama/Llama-3.1-8B", name)
        refused = problem(post(server, text, "application/yaml"), 422)
        assert refused["field"] == "services[0].model"
        assert refused["detail"].startswith("unknown model")  # the same, whether or not there is such a file


def test_the_token_opens_all_but_health_and_page(strict: LiveServer) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}):
        for path in ("/v1/plans", "/metrics", "/v1/catalog", "/nothing"):
            refused = httpx.get(f"{strict.url}{path}", headers=headers)
            problem(refused, 401)
            assert refused.headers["www-authenticate"] == "Bearer"
            assert refused.headers["connection"] == "close"
    description = httpx.get(f"{strict.url}/openapi.json").json()
    assert description["components"]["examples"] == {}  # files of the server are for those who have the token
    for path in ("/healthz", "/", "/openapi.json", "/web/index.html"):
        assert httpx.get(f"{strict.url}{path}").status_code == 200
    assert strict.client.get("/v1/catalog").status_code == 200


def test_large_bodies_are_refused(strict: LiveServer) -> None:
    refused = post(strict, b"x" * 2001)
    problem(refused, 413)
    assert refused.headers["connection"] == "close"

    def parts() -> Iterator[bytes]:  # no length is stated
        for _ in range(30):
            yield b"x" * 100

    problem(strict.client.post("/v1/plans", content=parts(), headers=YAML), 413)
    # A length is stated that need never arrive.
    address = urlsplit(strict.url)
    with socket.create_connection((address.hostname, address.port), timeout=5) as connection:
        head = f"POST /v1/plans HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
        connection.sendall(f"{head}Content-Type: application/json\r\nContent-Length: 999999\r\n\r\n".encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")


def test_a_full_queue_is_said_so(strict: LiveServer) -> None:
    running = [strict.ask(LONG, wait_s=0).json() for _ in range(3)]
    strict.client.get(f"/v1/plans/{running[0]['id']}?wait_s=0.5")
    answers = [strict.ask(LONG, wait_s=0) for _ in range(3)]
    refused = [answer for answer in answers if answer.status_code != 202]
    assert refused
    for answer in refused:
        problem(answer, 429)
        assert int(answer.headers["retry-after"]) > 0
    accepted = [answer.json() for answer in answers if answer.status_code == 202]
    for job in reversed([*running, *accepted]):
        assert strict.client.post(f"/v1/plans/{job['id']}/cancel").json()["status"] == "cancelled"


def test_too_many_requests_at_once_are_said_so(strict: LiveServer) -> None:
    job = strict.ask(LONG, wait_s=0).json()
    path = f"{strict.url}/v1/plans/{job['id']}/events"
    headers = {"Authorization": f"Bearer {TOKEN}"}
    streams = [httpx.stream("GET", path, headers=headers, timeout=30) for _ in range(6)]
    for stream in streams:
        stream.__enter__()
    busy = strict.client.get("/v1/catalog")
    problem(busy, 503)
    assert int(busy.headers["retry-after"]) > 0
    assert strict.client.get("/healthz").status_code == 200
    for stream in streams:
        stream.__exit__(None, None, None)
    for _ in range(100):
        answer = strict.client.post(f"/v1/plans/{job['id']}/cancel")
        if answer.status_code == 200:
            break
    assert answer.json()["status"] == "cancelled"


def in_process(check: Callable[[FastAPI, httpx.AsyncClient], Coroutine[Any, Any, None]], **changes: Any) -> None:
    """Run a check on an app without workers."""

    async def run() -> None:
        app = create_app(Settings(store="sqlite://", **changes))
        await app.state.desk.open()
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            await check(app, client)

    asyncio.run(run())


def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    async def slow() -> AsyncIterator[bytes]:
        yield b"schema"
        await asyncio.sleep(5.0)
        yield b": x"

    async def check(app: FastAPI, client: httpx.AsyncClient) -> None:
        problem(await client.post("/v1/scenarios/validate", content=slow(), headers=YAML), 408)

    in_process(check, body_limit_s=0.1)


def test_a_store_that_is_away_is_said_so() -> None:
    async def check(app: FastAPI, client: httpx.AsyncClient) -> None:
        await app.state.desk._store._run(lambda database: database.close())
        asked = client.post("/v1/plans", content=SCENARIO, headers=YAML)
        one = client.get(f"/v1/plans/{new_id()}")
        for answer in (await asked, await one, await client.get("/healthz")):
            problem(answer, 503)
            assert int(answer.headers["retry-after"]) > 0

    in_process(check)


def test_a_full_disk_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(database: SqliteDatabase, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        if not statement.startswith("SELECT"):
            raise StoreError("database or disk is full")
        return run(database, statement, parameters)

    async def check(app: FastAPI, client: httpx.AsyncClient) -> None:
        running = (await client.post("/v1/plans", content=SCENARIO, headers=YAML, params={"wait_s": 0})).json()
        assert (await client.get("/healthz")).status_code == 200
        monkeypatch.setattr(SqliteDatabase, "run", full)
        problem(await client.post("/v1/plans", content=SCENARIO, headers=YAML), 503)
        problem(await client.get("/healthz"), 503)  # at once, although a check has just written
        answer = await client.post(f"/v1/plans/{running['id']}/cancel")
        problem(answer, 503)
        assert int(answer.headers["retry-after"]) > 0
        monkeypatch.setattr(SqliteDatabase, "run", run)
        answer = await client.post(f"/v1/plans/{running['id']}/cancel")
        assert answer.json()["status"] == "cancelled"

    run = SqliteDatabase.run
    monkeypatch.setattr(desk_module, "CANCEL_LIMIT_S", 1.0)
    in_process(check)


def test_a_full_disk_is_noticed_before_a_job_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(database: SqliteDatabase, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        if not statement.startswith("SELECT"):
            raise StoreError("database or disk is full")
        return []

    async def check(app: FastAPI, client: httpx.AsyncClient) -> None:
        monkeypatch.setattr(SqliteDatabase, "run", full)
        problem(await client.get("/healthz"), 503)

    in_process(check)


def test_a_defect_says_nothing_of_the_inside() -> None:
    async def broken(*arguments: object) -> None:
        raise RuntimeError("a secret")

    async def check(app: FastAPI, client: httpx.AsyncClient) -> None:
        app.state.desk.newest = broken
        assert "secret" not in problem(await client.get("/v1/plans"), 500)["detail"]

    in_process(check)
