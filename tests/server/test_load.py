"""What a server is asked, large or in vain, keeps nobody else waiting."""

import json
import socket
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.server.live import CONFIGURATION, SCENARIO, YAML, LiveServer, problem

ROOT = Path(__file__).resolve().parents[2]
FEWEST_BEATS = 3
"""Answers of health while a document is read; read in the server, it would hold up all but one."""
EMPTY = json.dumps({"schema": "cleave.scenario/1", "services": [{}] * 60_000})


class Pulse:
    """How often `/healthz` answered inside a `with`.

    Args:
        url: of the server.
    """

    def __init__(self, url: str) -> None:
        self.beats = 0
        self._url = url
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat)

    def __enter__(self) -> "Pulse":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()

    def _beat(self) -> None:
        with httpx.Client(base_url=self._url, timeout=30.0) as client:
            client.get("/healthz")
            while not self._over.is_set():
                client.get("/healthz")
                self.beats += 1
                time.sleep(0.005)


@pytest.mark.parametrize("text", [EMPTY, f"a: [{','.join('1' * 120_000)}]"], ids=["services", "list"])
def test_large_documents_hold_up_nobody(server: LiveServer, text: str) -> None:
    with Pulse(server.url) as pulse:
        verdict = server.client.post("/v1/scenarios/validate", content=text, headers={"Content-Type": "text/plain"})
        refused = server.client.post("/v1/plans", content=text, headers=YAML)
    assert not verdict.json()["valid"]
    document = problem(refused, 422)
    assert document["errors"] == verdict.json()["errors"]
    if text is EMPTY:
        assert any("a list of at most 1000" in error["detail"] for error in document["errors"])
    assert pulse.beats >= FEWEST_BEATS


def test_large_documents_are_read_like_small_ones(server: LiveServer) -> None:
    padded = "# x\n" * 3000 + SCENARIO
    job = server.ask(padded, wait_s=20).json()
    assert job["status"] == "optimal"
    wrong = problem(server.ask(padded.replace("count: 4", "count: four")), 422)
    assert (wrong["field"], wrong["line"]) == ("cluster.pools[0].count", 3005)
    cut = server.client.post(
        "/v1/plans", content="{" + " " * 9000 + "\n}}", headers={"Content-Type": "application/json"}
    )
    assert problem(cut, 400)["line"] == 2


def large_plan(server: LiveServer, pools: int) -> bytes:
    """A plan in a cluster of very many idle GPUs."""
    plan: dict[str, Any] = server.ask(wait_s=20).json()["plan"]
    (pool,) = plan["scenario"]["cluster"]["pools"]
    idle = [{**pool, "name": f"x{i}", "count": 1_000_000} for i in range(pools)]
    plan["scenario"]["cluster"]["pools"] = [pool, *idle]
    plan["gpus_idle"].update({each["name"]: each["count"] for each in idle})
    return json.dumps(plan).encode()


def test_idle_nodes_cost_nothing(server: LiveServer) -> None:
    body, start = large_plan(server, 100), time.monotonic()
    report = server.client.post("/v1/report", content=body, headers={"Content-Type": "application/json"})
    assert report.status_code == 200
    assert "125000 x node like 0" in report.text
    assert time.monotonic() - start < 5.0


def test_nothing_is_done_for_clients_that_have_gone(server: LiveServer) -> None:
    body = large_plan(server, 900)
    address = urlsplit(server.url)
    for _ in range(3):
        with socket.create_connection((address.hostname, address.port), timeout=5) as connection:
            head = f"POST /v1/report HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
            connection.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
            time.sleep(0.2)
    end = time.monotonic() + 5.0
    while (health := server.client.get("/healthz").json())["busy"] or health["queued"]:
        assert time.monotonic() < end
        time.sleep(0.05)
    start = time.monotonic()
    predicted = server.client.post("/v1/predictions", content=CONFIGURATION, headers=YAML)
    assert predicted.json()["status"] == "done"
    assert time.monotonic() - start < 5.0
