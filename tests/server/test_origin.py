"""Pages of other web sites get nothing from a server, and do nothing to it."""

from pathlib import Path

import httpx
import pytest
from starlette.datastructures import Headers

from planner.cli import main
from planner.server.origin import known_host, of_another_site
from tests.server.live import SCENARIO, YAML, LiveServer, problem


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8000", "127.0.0.1:1", "[::1]", "[::1]:80", "LocalHost", "a.b:9"]
)
def test_hosts_of_this_server(host: str) -> None:
    assert known_host(Headers({"host": host}), ("a.b",))


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.", "", "evil@localhost", "::1"])
def test_hosts_of_others(host: str) -> None:
    assert not known_host(Headers({"host": host}), ("a.b",))


@pytest.mark.parametrize(
    ("method", "headers", "refused"),
    [
        ("POST", {}, False),
        ("POST", {"origin": "http://here:8000"}, False),
        ("POST", {"origin": "https://proxy.example"}, False),
        ("POST", {"origin": "http://here:8001"}, True),
        ("POST", {"origin": "https://evil.example"}, True),
        ("POST", {"origin": "null"}, True),
        ("POST", {"origin": "http://[evil"}, True),
        ("POST", {"sec-fetch-site": "same-origin"}, False),
        ("POST", {"sec-fetch-site": "cross-site"}, True),
        ("DELETE", {"sec-fetch-site": "cross-site"}, True),
        ("GET", {"sec-fetch-site": "cross-site"}, False),
    ],
)
def test_requests_of_other_sites(method: str, headers: dict[str, str], refused: bool) -> None:
    found = of_another_site(method, Headers({"host": "here:8000", **headers}), ("proxy.example",))
    assert found is refused


def test_a_rebound_name_sees_nothing(server: LiveServer) -> None:
    for path in ("/v1/plans", "/", "/openapi.json", "/metrics"):
        refused = server.client.get(path, headers={"Host": "evil.example:8000"})
        assert problem(refused, 421)["field"] == "Host"
        assert refused.headers["connection"] == "close"
    assert server.client.get("/healthz", headers={"Host": "10.1.2.3:8000"}).status_code == 200


def test_another_site_starts_and_cancels_nothing(server: LiveServer) -> None:
    job = server.ask(wait_s=20).json()
    for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        asked = server.client.post("/v1/plans", content=SCENARIO, headers={**YAML, **headers})
        assert problem(asked, 403)["field"] == "Origin"
        problem(server.client.post(f"/v1/plans/{job['id']}/cancel", headers=headers), 403)
    own = server.client.post("/v1/plans", content=SCENARIO, headers={**YAML, "Origin": server.url})
    assert own.status_code in (201, 202)


def test_names_are_allowed(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/jobs.sqlite3"
    with LiveServer(store, "--workers", "1", "--allow-host", "plans.example", "--allow-host", "other") as live:
        for host in ("plans.example", "other:80", "localhost"):
            assert httpx.get(f"{live.url}/v1/plans", headers={"Host": host}).status_code == 200
        problem(httpx.get(f"{live.url}/v1/plans", headers={"Host": "third"}), 421)


@pytest.mark.parametrize("name", ["", "http://x", "x:80", "a b"])
def test_names_that_are_none(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--store", "mysql://x", "--allow-host", name]) == 2
    assert "--allow-host" in capsys.readouterr().err
